"""The simulation of a farm, against closed forms, bounds and properties."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glc_ray.runtime.simulate_farm import FarmModel, simulate_farm

speeds = st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=1, max_size=6).map(tuple)


def test_a_lone_worker_never_waits_for_a_coordinator_that_takes_no_time() -> None:
    run = simulate_farm(FarmModel((2.0,), 3, 4, ("global", "local", "local"), window_s=1.0))
    assert run.makespan_s == pytest.approx(3 * 4 * 3 / 2)
    assert (run.occupancy, run.num_tasks, run.deaths) == (pytest.approx(1), 36, 0)


def test_a_second_video_fills_the_gap_that_a_coordinator_leaves() -> None:
    alone = FarmModel((1.0,) * 4, 2, 5, (None,) * 8, window_s=1.0, coordinator_s=1.0)
    together = FarmModel(
        (1.0,) * 4, 2, 5, (None,) * 8, window_s=1.0, coordinator_s=1.0, in_flight=2
    )
    # Alone: 2 rounds of a second and a second's pause, 10 times.
    assert simulate_farm(alone).makespan_s == pytest.approx(30)
    assert simulate_farm(together).makespan_s < 23
    assert simulate_farm(together).occupancy > 0.9


@given(speeds=speeds, videos=st.integers(1, 5), tasks=st.integers(1, 12), flight=st.integers(1, 3))
def test_bounds(speeds: tuple[float, ...], videos: int, tasks: int, flight: int) -> None:
    model = FarmModel(speeds, videos, 2, (None,) * tasks, window_s=1.0, in_flight=flight)
    run = simulate_farm(model)
    assert run.num_tasks == videos * 2 * tasks
    assert run.makespan_s >= run.num_tasks / sum(speeds) * (1 - 1e-9)
    # One after the other, on the slowest.
    assert run.makespan_s <= run.num_tasks / min(speeds) * (1 + 1e-9)
    assert 0 < run.occupancy <= 1 + 1e-9


@given(seed=st.integers(0, 1000))
def test_workers_that_die_lose_no_task_and_do_none_twice(seed: int) -> None:
    model = FarmModel(
        (1.0, 0.5, 2.0),
        num_videos=3,
        num_steps=3,
        groups=("global", "local", "local", "local"),
        window_s=60,
        in_flight=2,
        deaths_per_hour=1,
        restart_s=30,
        seed=seed,
    )
    run = simulate_farm(model)
    assert run.num_tasks == 3 * 3 * 4
    assert (run.lost_share > 0) <= (run.deaths > 0)
    assert run == simulate_farm(model), "the same seed, the same run"


def test_a_worker_that_is_killed_loses_what_it_computes_and_what_is_on_its_way() -> None:
    """By hand: of 8 tasks of a second each has two at once; the other is alone after half a second,
    with the three that were given out again."""
    model = FarmModel(
        (1.0, 1.0), 1, 1, (None,) * 8, window_s=1.0, killed=((0, 0.5),), restart_s=math.inf
    )
    run = simulate_farm(model)
    assert (run.num_tasks, run.num_grants, run.deaths) == (8, 10, 1)
    assert (run.makespan_s, run.busy_s, run.lost_s) == (8, 8, 0.5)
    assert run.occupancy == pytest.approx(8 / 8.5)


def test_messages_cost_time_between_tasks() -> None:
    """A round of two tasks: each waits for its first, and finds the second there."""
    model = FarmModel((1.0,), 1, 1, (None,) * 2, window_s=1.0, latency_s=0.25, task_s=0.125)
    few = FarmModel((1.0,), 1, 1, (None,) * 1, window_s=1.0, latency_s=0.25, task_s=0.125)
    assert simulate_farm(few).makespan_s == 1.25
    # The second is on its way only while more wait than there are workers.
    assert simulate_farm(model).makespan_s == 2.5
    assert simulate_farm(dataclasses.replace(model, groups=(None,) * 3)).makespan_s == 3.625
