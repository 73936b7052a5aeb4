"""What every score is made of: it takes frames one by one, and says at the end what they gave."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from glc_ray.media.read import Frame


@dataclass(frozen=True)
class Facts:
    """What scores may know of a video beside its frames."""

    prompt: str = ""
    fps: float = 8.0
    anchor_frames: int = 16
    """Length of the beginning that drift is measured from."""
    borders: Mapping[int, float] = field(default_factory=dict)
    """Share of the steps by frame: see ``window_borders``. Empty where that is not known."""


@dataclass(frozen=True)
class Measured:
    """A score of one video."""

    name: str
    value: float
    curve: NDArray[np.float64] | None = None
    """Of frames ``first``, ``first + step``, …; None where a frame has no number of its own."""
    first: int = 0
    step: int = 1

    def __post_init__(self) -> None:
        assert math.isfinite(self.value), self.name


class Score(Protocol):
    """The scores of one kind of one video, in memory that frames of any number fit in."""

    def add(self, frame: Frame) -> None:
        """The next frame; it is not changed later."""

    def results(self) -> Iterator[Measured]:
        """After the last frame; none where the video is too short for them, or shows nothing that
        they are about."""
