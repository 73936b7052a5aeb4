"""Motion by block matching: dynamic degree without a network.

VBench's formula on another measure of motion (it has RAFT's flow): of frames 8 times a second, the
mean length of the fastest twentieth of the vectors; a video is dynamic if that is above 6 pixels,
at 256 pixels of the shorter side, in at least 4 of 16 pairs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glc_ray.evaluation.scores.measure import Facts, Measured
from glc_ray.media.read import Frame

_SAMPLED_FPS = 8
_SHORTER_SIDE = 64
"""Of the pictures that are compared: frames are reduced by a whole factor to at least this."""
_BLOCK, _REACH = 8, 12
_FASTEST = 0.05
_THRESHOLD = 6 / 256
"""Of the shorter side, from which a pair moves."""
_MOVING_SHARE = 4 / 16
_LEAST_DIFFERENCE = 1.0
"""Grey levels that a block must differ by to move at all: less is noise of the compression."""
_EXPLAINED = 0.5
"""Share of that difference that a motion may leave: else something was covered or uncovered."""


class BlockMotion:
    """``motion_blocks``, pixels at a shorter side of 256 between two sampled frames, and
    ``dynamic_degree_blocks``, 1 or 0."""

    def __init__(self, facts: Facts) -> None:
        self._step = max(1, round(facts.fps / _SAMPLED_FPS))
        self._seen = 0
        self._before: NDArray[np.float32] | None = None
        self._shares: list[float] = []

    def add(self, frame: Frame) -> None:
        if self._seen % self._step == 0:
            picture = _reduced(frame)
            if self._before is not None:
                self._shares.append(motion(self._before, picture))
            self._before = picture
        self._seen += 1

    def results(self) -> Iterator[Measured]:
        if not self._shares:
            return
        shares = np.array(self._shares)
        yield Measured(
            "motion_blocks",
            float(shares.mean() * 256),
            shares * 256,
            first=self._step,
            step=self._step,
        )
        # VBench counts the frames that it samples, one more than pairs.
        needed = round(_MOVING_SHARE * (len(shares) + 1))
        is_dynamic = bool((shares > _THRESHOLD).sum() >= max(1, needed))
        yield Measured("dynamic_degree_blocks", float(is_dynamic))


def motion(before: NDArray[np.float32], after: NDArray[np.float32]) -> float:
    """Mean length of the fastest twentieth of the blocks' vectors, as a share of the shorter side.

    A block of 8×8 pixels of ``after`` came from where ``before`` has the smallest mean absolute
    difference, at most 12 pixels away on each axis; whole pixels. It is at rest if it differs by
    less than a grey level, or if no motion explains half of its difference.

    Args:
        before, after: (height, width) grey levels.
    """
    height, width = (side // _BLOCK * _BLOCK for side in after.shape)
    if not height or not width:
        return 0.0
    target = after[:height, :width]
    padded = np.pad(before, _REACH, mode="edge")
    at_rest = _block_means(np.abs(target - before[:height, :width]))
    best, lengths = at_rest.copy(), np.zeros_like(at_rest)
    # From the middle outward, so that of equal ones the shortest wins.
    for length, down, right in _shifts():
        from_there = padded[_REACH + down :, _REACH + right :][:height, :width]
        cost = _block_means(np.abs(target - from_there))
        is_better = cost < best
        best[is_better], lengths[is_better] = cost[is_better], length
    lengths[(at_rest < _LEAST_DIFFERENCE) | (best > _EXPLAINED * at_rest)] = 0
    fastest = np.sort(lengths.ravel())[-max(1, int(lengths.size * _FASTEST)) :]
    return float(fastest.mean() / min(after.shape))


def _shifts() -> list[tuple[float, int, int]]:
    reach = range(-_REACH, _REACH + 1)
    return sorted((math.hypot(down, right), down, right) for down in reach for right in reach)


def _block_means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = values.shape
    blocks = values.reshape(height // _BLOCK, _BLOCK, width // _BLOCK, _BLOCK)
    return blocks.mean(axis=(1, 3), dtype=np.float32)


def _reduced(frame: Frame) -> NDArray[np.float32]:
    factor = max(1, min(frame.shape[:2]) // _SHORTER_SIDE)
    grey = Image.fromarray(frame).convert("L").reduce(factor)
    return np.asarray(grey, np.float32)
