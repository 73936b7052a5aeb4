"""Means over videos, and how sure they are: bootstrap intervals over prompts and seeds.

Videos of one prompt are alike, so that they are no independent draws: whole prompts are drawn, with
all of their seeds (a cluster bootstrap), and what is found holds for other prompts, too. With fewer
than five prompts, seeds are drawn within each of them instead, and what is found holds for these
prompts alone. With fewer than five seeds, too, there is no interval: one of so few draws would be
far too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Over: TypeAlias = Literal["prompts", "seeds", ""]
"""What was drawn; empty: too few of either."""

LEAST_DRAWS = 5
LEVEL = 0.95
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean over videos."""

    mean: float
    low: float | None
    """Of the interval; None without one."""
    high: float | None
    num_videos: int
    over: Over

    @property
    def is_above(self) -> bool:
        """Whether the interval says that it is above 0."""
        return self.low is not None and self.low > 0

    @property
    def is_below(self) -> bool:
        """Whether the interval says that it is below 0."""
        return self.high is not None and self.high < 0


def estimate(values: Mapping[tuple[str, int], float]) -> Estimate:
    """Mean and interval of values by (prompt, seed).

    The interval is the bootstrap's percentile interval, widened about the mean for few draws:
    resampling n of them understates their variance by (n − 1)/n, and takes this variance for
    known, which Student's t with n − 1 degrees of freedom does not (of five draws: 1.6 times as
    wide in all). Of seeds, prompts add up their degrees of freedom. The same values give the same
    interval.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values to estimate a mean of")
    groups: dict[str, list[float]] = {}
    for (prompt, _), value in values.items():
        groups.setdefault(prompt, []).append(value)
    mean = float(np.mean(list(values.values())))
    fewest = min(map(len, groups.values()))
    random = np.random.default_rng(0)
    if len(groups) >= LEAST_DRAWS:
        means, over = _over_prompts(list(groups.values()), random), "prompts"
        freedom = len(groups) - 1
    elif fewest >= LEAST_DRAWS:
        means, over = _over_seeds(list(groups.values()), random), "seeds"
        freedom = len(values) - len(groups)
    else:
        return Estimate(mean, None, None, len(values), "")
    tails = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = mean + (tails - mean) * _widening(freedom)
    return Estimate(mean, float(low), float(high), len(values), over)  # type: ignore[arg-type]


def paired(
    values: Mapping[tuple[str, int], float], baseline: Mapping[tuple[str, int], float]
) -> Estimate | None:
    """The mean of the differences from a baseline, over the (prompt, seed) that both have.

    What makes one prompt or seed harder than another is in both and so not in the difference.

    Returns:
        None where they have none in common.
    """
    common = {key: values[key] - baseline[key] for key in values if key in baseline}
    return estimate(common) if common else None


def _widening(freedom: int) -> float:
    """How much wider an interval is for a variance that is estimated: Student's t by normal."""
    normal = NormalDist().inv_cdf((1 + LEVEL) / 2)
    # Student's quantile as a series in 1/freedom (Abramowitz and Stegun, 26.7.5); with 4 degrees
    # it is 0.2% short.
    student = (
        normal
        + (normal**3 + normal) / (4 * freedom)
        + (5 * normal**5 + 16 * normal**3 + 3 * normal) / (96 * freedom**2)
        + (3 * normal**7 + 19 * normal**5 + 17 * normal**3 - 15 * normal) / (384 * freedom**3)
    )
    return student / normal


def _stretch(draws: int) -> float:
    """How far resamples of n draws fall short of the deviation that n draws have."""
    return math.sqrt(draws / (draws - 1))


def _over_prompts(groups: Sequence[Sequence[float]], random: np.random.Generator) -> NDArray:
    sums = np.array([sum(group) for group in groups])
    counts = np.array([len(group) for group in groups])
    picks = random.integers(len(groups), size=(_RESAMPLES, len(groups)))
    means, mean = sums[picks].sum(axis=1) / counts[picks].sum(axis=1), sums.sum() / counts.sum()
    return mean + (means - mean) * _stretch(len(groups))


def _over_seeds(groups: Sequence[Sequence[float]], random: np.random.Generator) -> NDArray:
    sums = np.zeros(_RESAMPLES)
    for group in groups:
        picks = random.integers(len(group), size=(_RESAMPLES, len(group)))
        drawn = np.array(group)[picks].sum(axis=1)
        sums += sum(group) + (drawn - sum(group)) * _stretch(len(group))
    return sums / sum(map(len, groups))
