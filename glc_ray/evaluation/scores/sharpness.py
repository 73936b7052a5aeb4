"""Sharpness: how much detail a frame has."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from glc_ray.evaluation.scores.measure import Facts, Measured
from glc_ray.media.read import Frame

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


class Sharpness:
    """``sharpness``: variance of the Laplacian of luma in grey levels, averaged over frames.

    It compares videos of the same content and size; noise counts as detail.
    """

    def __init__(self, facts: Facts) -> None:
        self._values: list[float] = []

    def add(self, frame: Frame) -> None:
        self._values.append(sharpness(frame))

    def results(self) -> Iterator[Measured]:
        values = np.array(self._values)
        yield Measured("sharpness", float(values.mean()), values)


def sharpness(frame: Frame) -> float:
    """Variance over pixels of Y(up) + Y(down) + Y(left) + Y(right) − 4 Y, without the edges.

    Args:
        frame: (height, width, 3) with at least 3×3 pixels; a smaller one has none: 0.
    """
    luma = frame @ _LUMA
    if min(luma.shape) < 3:
        return 0.0
    sides = luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:]
    return float((sides - 4 * luma[1:-1, 1:-1]).var(dtype=np.float64))
