"""Intervals against what theory says of them."""

from __future__ import annotations

import numpy as np
import pytest

from glc_ray.comparison.statistics import estimate, paired


def by_prompt(values: np.ndarray) -> dict[tuple[str, int], float]:
    """(prompts, seeds) as values by name."""
    return {
        (f"prompt {prompt}", seed): float(value)
        for prompt, row in enumerate(values)
        for seed, value in enumerate(row)
    }


def test_many_independent_prompts_give_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(5, 2, (400, 1))
    found = estimate(by_prompt(values))
    half = 1.96 * values.std(ddof=1) / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.over == "prompts"
    assert found.num_videos == 400
    assert (found.low, found.high) == pytest.approx(
        (found.mean - half, found.mean + half), abs=0.02
    )


def test_seeds_of_one_prompt_are_not_counted_as_prompts() -> None:
    """Fifty copies of a video say no more than the one."""
    values = np.random.default_rng(2).normal(0, 1, (10, 1))
    once, often = (estimate(by_prompt(np.repeat(values, n, axis=1))) for n in (1, 50))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize("num_prompts", [5, 8, 12])
def test_intervals_hold_the_truth_about_as_often_as_they_say(num_prompts: int) -> None:
    random = np.random.default_rng(3)
    held, tries = 0, 800
    for _ in range(tries):
        prompts = random.normal(0, 1, (num_prompts, 1))
        found = estimate(by_prompt(prompts + random.normal(0, 1, (num_prompts, 2))))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    # They are 93 to 95%: tails of a bootstrap are lighter. Without Student's t: 87%, 90%, 93%.
    assert 0.925 * tries <= held <= 0.97 * tries


@pytest.mark.parametrize("seeds", [(5,), (5, 5, 5, 5), (5, 50, 50, 50)])
def test_intervals_over_seeds_hold_the_truth_as_often_as_they_say(seeds: tuple[int, ...]) -> None:
    random = np.random.default_rng(8)
    held, tries = 0, 400
    for _ in range(tries):
        found = estimate(
            {
                (f"prompt {prompt}", seed): random.normal(0, 1)
                for prompt, count in enumerate(seeds)
                for seed in range(count)
            }
        )
        assert found.over == "seeds"
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0 <= found.high
    # By the degrees of freedom of the smallest prompt alone: 98% and more of several prompts.
    assert 0.925 * tries <= held <= 0.972 * tries


@pytest.mark.parametrize(("draws", "quantile"), [(5, 2.776), (9, 2.306), (30, 2.045)])
def test_few_draws_widen_as_the_tables_of_student_say(draws: int, quantile: float) -> None:
    values = np.random.default_rng(7).normal(0, 1, draws)
    found = estimate(by_prompt(values[:, None]))
    assert found.low is not None
    assert found.high is not None
    half = quantile * values.std(ddof=1) / np.sqrt(draws)
    # The bootstrap's own tails are no exact normal ones.
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.06)


def test_few_prompts_with_many_seeds_are_drawn_within_prompts() -> None:
    """What differs between the two prompts is no uncertainty about these two."""
    values = np.random.default_rng(4).normal(0, 1, (2, 50))
    near, far = (estimate(by_prompt(values + np.array([[0], [gap]]))) for gap in (0, 1000))
    assert (near.over, far.over) == ("seeds", "seeds")
    assert far.low is not None
    assert far.high is not None
    assert far.high - far.low == pytest.approx(near.high - near.low, rel=1e-6)  # type: ignore[operator]


def test_there_is_no_interval_of_a_few_videos() -> None:
    found = estimate(by_prompt(np.arange(4.0)[:, None]))
    assert (found.mean, found.low, found.high, found.over) == (1.5, None, None, "")
    assert not found.is_above
    assert not found.is_below


def test_pairs_take_out_what_both_have() -> None:
    hard = np.random.default_rng(5).normal(0, 100, (20, 2))
    found = paired(by_prompt(hard + 1), by_prompt(hard))
    assert found is not None
    assert (found.mean, found.low, found.high) == pytest.approx((1, 1, 1))
    assert found.is_above


def test_only_what_both_have_is_compared() -> None:
    found = paired({("a", 0): 3, ("b", 0): 9}, {("a", 0): 1, ("c", 0): 5})
    assert found is not None
    assert (found.mean, found.num_videos) == (2, 1)
    assert paired({("a", 0): 1}, {("b", 0): 1}) is None


def test_the_same_values_give_the_same_interval() -> None:
    values = by_prompt(np.random.default_rng(6).normal(0, 1, (6, 2)))
    assert estimate(values) == estimate(values)
    with pytest.raises(ValueError, match="no values"):
        estimate({})
