"""Motion smoothness: how well every second frame is guessed from its two neighbours.

VBench's formula: of frames 1, 3, 5, … with a neighbour on both sides, m_t = mean |x_t − g(x_{t−1},
x_{t+1})| over pixels and colours in grey levels, and (255 − mean_t m_t) / 255. VBench guesses by
AMT, whose weights must be downloaded. Here g is another one, and the score's name says which.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import numpy as np

from glc_ray.evaluation.scores.measure import Facts, Measured
from glc_ray.media.read import Frame


class _Smoothness(ABC):
    _name: str

    def __init__(self) -> None:
        self._errors: list[float] = []
        self._held: list[Frame] = []

    def add(self, frame: Frame) -> None:
        self._held.append(frame)
        if len(self._held) == 3:
            self._errors.append(self._error(*self._held))
            del self._held[:2]

    def results(self) -> Iterator[Measured]:
        if self._errors:
            errors = np.array(self._errors)
            yield Measured(self._name, float((255 - errors.mean()) / 255), errors, first=1, step=2)

    @abstractmethod
    def _error(self, before: Frame, frame: Frame, after: Frame) -> float:
        """Mean absolute error of the guess, in grey levels."""


class BlendSmoothness(_Smoothness):
    """``motion_smoothness_blend``: guesses the mean of the two neighbours.

    It knows no motion: what moves far from frame to frame counts as rough. It orders videos of the
    same content; its size says nothing beside VBench's.
    """

    _name = "motion_smoothness_blend"

    def __init__(self, facts: Facts) -> None:
        super().__init__()

    def _error(self, before: Frame, frame: Frame, after: Frame) -> float:
        twice = 2 * frame.astype(np.int16) - before - after
        return float(np.abs(twice).mean() / 2)


class InterpolatedSmoothness(_Smoothness):
    """``motion_smoothness_rife``: guesses by RIFE's optical flow.

    Args:
        interpolate: frames (height, width, 3) before and after -> the one between them.
    """

    _name = "motion_smoothness_rife"

    def __init__(self, interpolate: Callable[[Frame, Frame], Frame]) -> None:
        super().__init__()
        self._interpolate = interpolate

    def _error(self, before: Frame, frame: Frame, after: Frame) -> float:
        guess = self._interpolate(before, after)
        return float(np.abs(frame.astype(np.int16) - guess).mean())
