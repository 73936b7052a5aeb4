"""What is under way for each video, and whose turn it is. Pure Python."""

from __future__ import annotations

import heapq
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Assignment:
    """The right to answer one task, once."""

    video: Hashable
    step: int
    """Of the video: how many it has submitted."""
    task: int
    attempt: int
    worker: Hashable


@dataclass(eq=False)
class VideoTasks:
    """What is under way for one video."""

    name: Hashable
    priority: int
    order: int
    """Of its opening: no two have the same."""
    served: int
    """Tasks given out, counted from what its peers had when it came."""
    step: int = 0
    groups: tuple[Hashable, ...] = ()
    """Of each task of the step."""
    waiting: dict[Hashable, list[int]] = field(default_factory=dict)
    """Heaps of tasks, by group."""
    owner: dict[int, Assignment] = field(default_factory=dict)
    reasons: dict[int, list[str]] = field(default_factory=dict)
    sticky: bool = False
    """The tasks wait for the one worker that does such tasks."""

    @property
    def num_waiting(self) -> int:
        return sum(map(len, self.waiting.values()))

    def wait(self, task: int) -> None:
        heapq.heappush(self.waiting.setdefault(self.groups[task], []), task)

    def take(self, group: Hashable) -> int:
        task = heapq.heappop(self.waiting[group])
        if not self.waiting[group]:
            del self.waiting[group]
        return task


class Turns:
    """The videos that have tasks, in the order in which they are served.

    The highest priority goes first, then who was served least, then who came first. It takes a
    logarithmic time of the videos in flight.
    """

    def __init__(self) -> None:
        # By (priority, sticky). What has changed since is left where it is until it comes up.
        self._heaps: dict[tuple[int, bool], list[tuple[int, int, VideoTasks]]] = {}

    def add(self, video: VideoTasks) -> None:
        """Whenever tasks wait anew, and whenever the video was served."""
        if video.waiting:
            heap = self._heaps.setdefault((video.priority, video.sticky), [])
            heapq.heappush(heap, (video.served, video.order, video))

    def first(self, *, away: bool) -> VideoTasks | None:
        """Who is served next; with ``away`` of those alone whose tasks are not sticky."""
        for priority in sorted({priority for priority, _ in self._heaps}, reverse=True):
            found = [
                self._top((priority, sticky)) for sticky in ((False,) if away else (False, True))
            ]
            videos = [video for video in found if video is not None]
            if videos:
                return min(videos, key=lambda video: (video.served, video.order))
        return None

    def _top(self, kind: tuple[int, bool]) -> VideoTasks | None:
        heap = self._heaps.get(kind, [])
        while heap:
            served, _, video = heap[0]
            if video.waiting and video.served == served and video.sticky == kind[1]:
                return video
            heapq.heappop(heap)
        self._heaps.pop(kind, None)
        return None
