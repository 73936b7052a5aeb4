"""Seconds of forwards: stated for a native window, or timed batch by batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from glc_ray.backbones.cost import ModelCost
from glc_ray.estimate.figures import BatchSeconds
from glc_ray.estimate.work import Step, alike
from glc_ray.protocols import Forward, Window

BatchKind = tuple[str, int, bool]
"""Path, clips, and whether it is the path's anchor."""


def kind_of(forward: Forward) -> BatchKind:
    """Forwards of one kind take equally long."""
    return forward.path, len(forward.windows), forward.is_anchor


class StatedClock:
    """So many seconds for a guided forward of one native window, and others by their operations.

    Args:
        seconds_per_window: of a clip of the model's native length, in its own attention.
        cost: of the model.
        native: latent frames of the native window.
    """

    def __init__(self, seconds_per_window: float, cost: ModelCost, native: int) -> None:
        self._seconds = seconds_per_window
        self._cost = cost
        self._native = native

    def window_s(self, forward: Forward) -> float:
        """In proportion to the forward's operations."""
        frames = tuple(range(self._native))
        window = Window(index=0, path=forward.path, frames=frames, weights=(1.0,) * self._native)
        plain = replace(forward, windows=(window,), attention=None, anchor=None)
        return self._seconds * self._cost.flops(forward) / self._cost.flops(plain)

    def anchor_s(self, forward: Forward) -> float:
        """Of one clip of the forward's length."""
        return self.window_s(replace(forward, windows=forward.windows[:1]))


class MeasuredClock:
    """Medians of batches that were timed, each with its anchor at hand.

    Args:
        batches: one for each kind of batch that the job has.
    """

    def __init__(self, batches: Mapping[BatchKind, BatchSeconds]) -> None:
        self._batches = batches

    def window_s(self, forward: Forward) -> float:
        """The batch's median; without the share of an anchor that rode along."""
        seconds = self._batches[kind_of(forward)].median_s
        return seconds * (1 - self._share_of_anchor(forward))

    def anchor_s(self, forward: Forward) -> float:
        """Of the anchor's own forward, or its share of the batch where it rides along."""
        if forward.rides_along:
            seconds = self._batches[kind_of(forward)].median_s
            return seconds * self._share_of_anchor(forward)
        return self._batches[forward.path, 1, True].median_s

    def mean_window_s(self, steps: tuple[Step, ...]) -> float:
        """Seconds of a window, over all of a job's."""
        seconds, windows = 0.0, 0
        for step, times in alike(steps):
            seconds += times * sum(map(self.window_s, step.forwards))
            windows += times * len(step.plan.windows)
        return seconds / windows

    def _share_of_anchor(self, forward: Forward) -> float:
        return 1 / (len(forward.windows) + 1) if forward.rides_along else 0.0
