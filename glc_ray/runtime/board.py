"""The progress board: what every video is doing now, for whoever displays it."""

from __future__ import annotations

from glc_ray.runtime.messages import VideoProgress


class Board:
    """An actor that remembers the last report of each video."""

    def __init__(self) -> None:
        self._videos: dict[str, VideoProgress] = {}

    def report(self, video: str, progress: VideoProgress) -> None:
        """Replace what is known of ``video`` (its specification hash)."""
        self._videos[video] = progress

    def snapshot(self) -> list[VideoProgress]:
        """The last report of each video, in the order of first reports."""
        return list(self._videos.values())
