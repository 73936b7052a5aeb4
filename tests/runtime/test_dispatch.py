"""The dispatch rules, alone: every task is answered once, whatever the workers do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glc_ray.runtime.dispatch import Assignment, Dispatch, TaskFailedError


def test_tasks_are_handed_out_in_order() -> None:
    dispatch = Dispatch([None] * 3)
    assert [dispatch.assign("a").task for _ in range(3)] == [0, 1, 2]
    assert dispatch.assign("a") is None


def test_failed_task_goes_first_to_whoever_asks_next() -> None:
    dispatch = Dispatch([None] * 3)
    lost = dispatch.assign("a")
    assert dispatch.fail(lost, "died")
    again = dispatch.assign("b")
    assert (again.task, again.worker) == (0, "b")
    assert again.attempt != lost.attempt


def test_late_answer_of_a_dead_attempt_is_dropped() -> None:
    dispatch = Dispatch([None])
    lost = dispatch.assign("a")
    dispatch.fail(lost, "no answer")
    current = dispatch.assign("b")
    assert not dispatch.complete(lost)
    assert dispatch.complete(current)
    assert not dispatch.complete(current), "an answer counts once"
    assert not dispatch.fail(current, "late"), "a done task cannot fail"


def assigned(dispatch: Dispatch, worker: str) -> int:
    assignment = dispatch.assign(worker)
    assert assignment is not None
    return assignment.task


GROUPS = ["global", "global", "global", "local", "local", "local", "local"]


def test_a_lone_worker_finishes_its_group_first() -> None:
    dispatch = Dispatch(GROUPS)
    tasks = [assigned(dispatch, "a") for _ in GROUPS]
    assert tasks == [3, 4, 5, 6, 0, 1, 2], "the longest group first: the last one ends alone"


def test_workers_spread_over_groups_before_they_share_one() -> None:
    dispatch = Dispatch(GROUPS)
    assert [assigned(dispatch, "a"), assigned(dispatch, "b")] == [3, 0]
    assert [assigned(dispatch, "a"), assigned(dispatch, "b")] == [4, 1]
    assert assigned(dispatch, "c") == 5, "2 of local wait for 1 worker, 1 of global for another"


def test_nobody_idles_while_a_task_of_another_group_waits() -> None:
    dispatch = Dispatch(["global", "local", "local", "local"])
    assert [assigned(dispatch, "a"), assigned(dispatch, "b")] == [1, 0]
    assert [assigned(dispatch, "b"), assigned(dispatch, "a")] == [2, 3]


def test_a_worker_that_failed_holds_nothing() -> None:
    dispatch = Dispatch(GROUPS)
    first = dispatch.assign("a")
    assert first is not None
    dispatch.fail(first, "died")
    assert [assigned(dispatch, "b"), assigned(dispatch, "a")] == [3, 0]


def test_task_that_fails_too_often_ends_the_step_with_its_reasons() -> None:
    dispatch = Dispatch([None] * 2, max_failures=2)
    dispatch.fail(dispatch.assign("a"), "out of memory")
    with pytest.raises(TaskFailedError, match="failed 2 times: NaN") as failure:
        dispatch.fail(dispatch.assign("b"), "NaN")
    assert (failure.value.task, failure.value.reasons) == (0, ["out of memory", "NaN"])


@given(
    groups=st.lists(st.sampled_from([None, "global", "local"]), max_size=20),
    events=st.lists(st.tuples(st.sampled_from("acf"), st.integers(0, 100)), max_size=300),
)
def test_every_task_is_answered_exactly_once(
    groups: list[str | None], events: list[tuple[str, int]]
) -> None:
    """Any order of assignments, answers and failures, answers of dead attempts among them."""
    dispatch = Dispatch(groups, max_failures=10**6)
    issued: list[Assignment] = []
    answered: list[int] = []
    for kind, number in [*events, *[("a", 0), ("c", -1)] * (len(groups) + len(events))]:
        if kind == "a":
            assignment = dispatch.assign(f"w{number % 3}")
            issued += [assignment] if assignment else []
        elif issued:
            assignment = issued[number % len(issued)]
            if kind == "c" and dispatch.complete(assignment):
                answered.append(assignment.task)
            elif kind == "f":
                dispatch.fail(assignment, "died")
    for assignment in issued:
        if dispatch.complete(assignment):
            answered.append(assignment.task)
    assert sorted(answered) == list(range(len(groups)))
