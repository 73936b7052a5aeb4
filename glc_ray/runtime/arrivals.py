"""What of each video's final latents is stored, and which decoders may begin with it."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TypeAlias

from glc_ray.runtime.messages import Timings

Division: TypeAlias = tuple[tuple[int, ...], ...]
"""Indices of the segments of each stretch of a video."""


@dataclass(frozen=True)
class Arrival:
    """How far one video's final latents have come."""

    attempt: str = ""
    """The one that denoises it: bands of others do not count."""
    bands: tuple[int, ...] = ()
    """Latent frame after each band that is stored; the first begins at 0."""
    timings: Timings | None = None
    """Of its denoising, once the file with all latents is stored."""
    status: str = ""
    """failed or cancelled, where no more will come."""
    error: str = ""
    """Why."""
    log: str = ""
    """Where a file tells more, if one does."""
    ended_at: float = 0.0
    """When there was nothing more to wait for, in seconds since 1970."""

    @property
    def num_frames(self) -> int:
        """Latent frames that are stored in bands."""
        return self.bands[-1] if self.bands else 0

    @property
    def has_ended(self) -> bool:
        """Whether nothing is to be waited for any more."""
        return self.timings is not None or bool(self.status)


class Arrivals:
    """The arrivals of all videos in work."""

    def __init__(self) -> None:
        self._arrivals: dict[str, Arrival] = {}
        self._divisions: dict[str, Division] = {}

    def of(self, video: str) -> Arrival:
        """What is known; nothing of a video that has not begun, or where the board was lost."""
        return self._arrivals.get(video, Arrival())

    def begin(self, video: str, attempt: str) -> None:
        """Another attempt at its latents, the only one that counts from now on."""
        self._arrivals[video] = Arrival(attempt)

    def add_band(self, video: str, attempt: str, start: int, stop: int) -> None:
        """A band of latent frames is stored; those of earlier attempts come too late, and so do
        those before which others were forgotten."""
        known = self.of(video)
        if known.attempt == attempt and known.num_frames == start and not known.has_ended:
            self._arrivals[video] = replace(known, bands=(*known.bands, stop))

    def complete(self, video: str, timings: Timings) -> None:
        """All latents are stored as one file."""
        self._arrivals[video] = Arrival(
            self.of(video).attempt, timings=timings, ended_at=time.time()
        )

    def fail(self, video: str, status: str, error: str, log: str = "") -> None:
        """No more will come."""
        self._arrivals[video] = replace(
            self.of(video), status=status, error=error, log=log, ended_at=time.time()
        )

    def is_arriving(self, video: str) -> bool:
        """Whether some of its latents are still to come."""
        return video in self._arrivals and not self._arrivals[video].has_ended

    def division(self, video: str, proposed: Division | None = None) -> Division:
        """How a video is divided among decoders: as it was first proposed, for whoever asks again
        (rows of a stage that is repeated must be those that went out before). One row unless it
        was."""
        if proposed is not None:
            self._divisions.setdefault(video, proposed)
        return self._divisions.get(video, ((),))

    def forget(self, video: str) -> None:
        """It is recorded: nobody asks any more."""
        self._arrivals.pop(video, None)
        self._divisions.pop(video, None)
