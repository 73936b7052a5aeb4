"""The simulation of a step, against closed forms, bounds of list scheduling, and properties."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glc_ray.config import GLCSpec
from glc_ray.methods.glc import GLC
from glc_ray.runtime.simulate import Task, simulate

COGVIDEOX_WINDOW = 13
NUM_STEPS = 12
"""Every shift of the local windows (0..5) is among so many."""

seconds = st.floats(0.01, 10)
workers = st.integers(1, 9)


def anchored(group: str, *batches: int) -> list[Task]:
    """An anchor alone, then batches of so many clips; a clip takes a second."""
    tasks = [Task(1, group=group, anchor=group, is_anchor=True)]
    return tasks + [Task(clips, group=group, anchor=group, anchor_s=1) for clips in batches]


@given(tasks=st.lists(seconds.map(Task), min_size=1, max_size=40), num_workers=workers)
def test_makespan_is_within_the_bounds_of_list_scheduling(
    tasks: list[Task], num_workers: int
) -> None:
    """Graham 1966: whoever is idle takes the next, so all end within the last task of an equal
    share."""
    step = simulate(tasks, num_workers)
    work, longest = sum(task.seconds for task in tasks), max(task.seconds for task in tasks)
    assert step.makespan_s >= max(work / num_workers, longest) * (1 - 1e-9)
    bound = work / num_workers + (1 - 1 / num_workers) * longest
    assert step.makespan_s <= bound * (1 + 1e-9)
    assert step.busy_share * step.makespan_s * num_workers == pytest.approx(work)
    assert step.anchor_forwards == 0


def test_one_worker_computes_each_anchor_once_as_its_own_window() -> None:
    step = simulate([*anchored("global", 3, 2), *anchored("local", 3, 3, 1)], 1)
    assert (step.makespan_s, step.anchor_forwards, step.busy_share) == (14, 0, 1)


def test_two_workers_by_hand() -> None:
    """a: global 0-1, 1-4 (3 clips), then local: its anchor and 2 clips, 4-7.
    b: local 0-1, 1-4 (3 clips), 4-7 (3 clips)."""
    step = simulate([*anchored("global", 3), *anchored("local", 3, 3, 2)], 2)
    assert (step.makespan_s, step.anchor_forwards, step.busy_share) == (7, 1, 1)


def test_a_worker_holds_the_anchor_of_one_path_at_a_time() -> None:
    """Without groups one worker goes to and fro between paths and computes anchors anew."""
    one, other = anchored("global", 1, 1), anchored("local", 1, 1)
    mixed = [task for pair in zip(one, other, strict=True) for task in pair]
    step = simulate([Task(t.seconds, None, t.anchor, t.anchor_s, t.is_anchor) for t in mixed], 1)
    assert step.anchor_forwards == 4
    assert step.makespan_s == 6 + 4


@given(sizes=st.lists(st.integers(1, 4), max_size=12), num_workers=workers)
def test_an_anchor_that_rides_along_is_in_every_batch_but_its_own(
    sizes: list[int], num_workers: int
) -> None:
    step = simulate(anchored("local", *sizes), num_workers, keeps_anchors=False)
    assert step.anchor_forwards == len(sizes)
    work = 1 + sum(sizes) + len(sizes)
    assert step.busy_share * step.makespan_s * num_workers == pytest.approx(work)


def glc_tasks(
    num_latent_frames: int, batch_size: int, step_index: int, *, affinity: bool
) -> list[Task]:
    method = GLC(
        num_latent_frames=num_latent_frames,
        window_size=COGVIDEOX_WINDOW,
        seed=0,
        options=GLCSpec(),
    )
    return [
        Task(
            seconds=len(windows),
            group=path.name if affinity else None,
            anchor=path.name,
            anchor_s=1,
            is_anchor=windows == (path.anchor,),
        )
        for path in method.plan(step_index, 999.0).paths
        for windows in path.batches(batch_size)
    ]


@pytest.mark.parametrize("num_latent_frames", [37, 73, 301])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("num_workers", [1, 2, 4, 8])
def test_affinity_needs_no_more_anchors_than_index_order(
    num_latent_frames: int, batch_size: int, num_workers: int
) -> None:
    """CogVideoX at 145, 289 and 1201 frames; nor does it take longer, on average."""
    runs = {
        affinity: [
            simulate(
                glc_tasks(num_latent_frames, batch_size, index, affinity=affinity), num_workers
            )
            for index in range(NUM_STEPS)
        ]
        for affinity in (True, False)
    }
    for ours, in_index_order in zip(runs[True], runs[False], strict=True):
        assert ours.anchor_forwards <= in_index_order.anchor_forwards
        if num_workers == 1:
            assert ours.anchor_forwards == 0
    means = [sum(run.makespan_s for run in runs[affinity]) for affinity in (True, False)]
    assert means[0] <= means[1]
