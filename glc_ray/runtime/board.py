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

    def decoded(self, video: str, name: str, num_frames: int, total: int) -> None:
        """Count ``num_frames`` more of a video's ``total``, whichever decoder they are from."""
        known = self._videos.get(video)
        done = known.frames_done if known is not None and known.state == "decoding" else 0
        self._videos[video] = VideoProgress(
            name, "decoding", frames_done=min(done + num_frames, total), num_frames=total
        )

    def snapshot(self) -> list[VideoProgress]:
        """The last report of each video, in the order of first reports."""
        return list(self._videos.values())
