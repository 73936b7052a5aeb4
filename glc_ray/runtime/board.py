"""The board: what every video is doing now, for whoever displays it, and who is to stop."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

from glc_ray.store.run_status import FINAL_STATES, VideoProgress


class Board:
    """An actor that remembers the last report of each video in work."""

    def __init__(self) -> None:
        self._videos: dict[str, VideoProgress] = {}
        self._coordinators: dict[str, Any] = {}
        self._cancelled: frozenset[str] = frozenset()
        self._is_ending = False

    def report(self, video: str, progress: VideoProgress) -> None:
        """Replace what is known of ``video`` (its specification hash)."""
        if progress.state in FINAL_STATES:
            self._videos.pop(video, None)
        else:
            self._videos[video] = progress

    def begin(self, video: str, name: str) -> int:
        """A video is loading; its slot, the smallest number that no other in denoising has."""
        known = self._videos.get(video)
        if known is None or known.slot is None:
            taken = {other.slot for other in self._videos.values()}
            slot = next(slot for slot in count() if slot not in taken)
        else:
            # Its coordinator died, and another goes on.
            slot = known.slot
        self._videos[video] = VideoProgress(name, "loading", slot=slot)
        return slot

    def decoded(self, video: str, name: str, num_frames: int, total: int) -> None:
        """Count ``num_frames`` more of a video's ``total``, whichever decoder they are from."""
        known = self._videos.get(video)
        done = known.frames_done if known is not None and known.state == "decoding" else 0
        self._videos[video] = VideoProgress(
            name, "decoding", frames_done=min(done + num_frames, total), num_frames=total
        )

    def in_work(self) -> tuple[VideoProgress, ...]:
        """Where the videos in work stand."""
        return tuple(self._videos.values())

    def attend(self, name: str, coordinator: Any) -> None:
        """Remember who drives a video."""
        self._coordinators[name] = coordinator

    def leave(self, name: str) -> None:
        """Nobody drives a video any more."""
        self._coordinators.pop(name, None)

    def coordinators(self) -> list[Any]:
        """Handles of those that drive videos now."""
        return list(self._coordinators.values())

    def cancel(self, names: Iterable[str], everything: bool) -> None:
        """Videos of these names are to stop; with ``everything`` all are, and no other begins."""
        self._cancelled, self._is_ending = frozenset(names), everything

    def is_cancelled(self, name: str) -> bool:
        """Whether a video is to stop."""
        return self._is_ending or name in self._cancelled

    def is_ending(self) -> bool:
        """Whether no other video is to begin."""
        return self._is_ending
