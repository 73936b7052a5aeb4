"""The dispatch rules, alone: every task is answered once, whatever the workers do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glc_ray.runtime.dispatch import Dispatch, TaskFailedError
from glc_ray.runtime.turns import Assignment

VIDEO = "video"
GROUPS = ["global", "global", "global", "local", "local", "local", "local"]


def dispatch_of(
    groups: Sequence[Hashable], workers: str = "abcdef", *, max_failures: int = 3
) -> Dispatch:
    dispatch = Dispatch(max_failures=max_failures)
    for worker in workers:
        dispatch.join(worker)
    dispatch.open(VIDEO)
    dispatch.submit(VIDEO, groups)
    return dispatch


def assigned(dispatch: Dispatch, worker: str) -> Assignment:
    assignment = dispatch.assign(worker)
    assert assignment is not None
    return assignment


def tasks(dispatch: Dispatch, workers: str) -> list[int]:
    """What each is given, after it has answered what it had."""
    given_tasks = []
    for worker in workers:
        for assignment in dispatch.assignments(worker):
            dispatch.complete(assignment)
        given_tasks.append(assigned(dispatch, worker).task)
    return given_tasks


def answer_all(dispatch: Dispatch, worker: str) -> list[tuple[Hashable, int]]:
    """A lone worker computes all that waits, one task after the other."""
    answered = []
    while (assignment := dispatch.assign(worker)) is not None:
        assert dispatch.complete(assignment)
        answered.append((assignment.video, assignment.task))
    return answered


def test_tasks_are_handed_out_in_order() -> None:
    dispatch = dispatch_of([None] * 3)
    assert tasks(dispatch, "aaa") == [0, 1, 2]
    assert dispatch.assign("b") is None


def test_a_worker_has_room_for_what_it_computes_and_one_more() -> None:
    dispatch = dispatch_of([None] * 3)
    assert [assigned(dispatch, "a").task for _ in range(2)] == [0, 1]
    assert dispatch.assign("a") is None
    assert assigned(dispatch, "b").task == 2


def test_failed_task_goes_first_to_whoever_asks_next() -> None:
    dispatch = dispatch_of([None] * 3)
    lost = assigned(dispatch, "a")
    assert dispatch.fail(lost, "died")
    again = assigned(dispatch, "b")
    assert (again.task, again.worker) == (0, "b")
    assert again.attempt != lost.attempt


def test_a_worker_that_failed_takes_part_when_it_has_joined_again() -> None:
    dispatch = dispatch_of([None] * 3, "ab")
    dispatch.fail(assigned(dispatch, "a"), "died")
    assert {assignment.worker for assignment in dispatch.grants()} == {"b"}
    dispatch.join("a")
    assert {assignment.worker for assignment in dispatch.grants()} == {"a"}


def test_late_answer_of_a_dead_attempt_is_dropped() -> None:
    dispatch = dispatch_of([None])
    lost = assigned(dispatch, "a")
    dispatch.fail(lost, "no answer")
    current = assigned(dispatch, "b")
    assert not dispatch.complete(lost)
    assert dispatch.complete(current)
    assert not dispatch.complete(current), "an answer counts once"
    assert not dispatch.fail(current, "late"), "a done task cannot fail"


def test_a_lone_worker_finishes_its_group_first() -> None:
    order = tasks(dispatch_of(GROUPS), "a" * len(GROUPS))
    assert order == [3, 4, 5, 6, 0, 1, 2], "the longest group first: the last one ends alone"


def test_workers_spread_over_groups_before_they_share_one() -> None:
    dispatch = dispatch_of(GROUPS)
    assert tasks(dispatch, "ab") == [3, 0]
    assert tasks(dispatch, "ab") == [4, 1]
    assert tasks(dispatch, "c") == [5], "2 of local wait for 1 worker, 1 of global for another"


def test_nobody_idles_while_a_task_of_another_group_waits() -> None:
    dispatch = dispatch_of(["global", "local", "local", "local"])
    assert tasks(dispatch, "ab") == [1, 0]
    assert tasks(dispatch, "ba") == [2, 3]


def test_a_worker_that_failed_holds_nothing() -> None:
    dispatch = dispatch_of(GROUPS)
    dispatch.fail(assigned(dispatch, "a"), "died")
    dispatch.join("a")
    assert tasks(dispatch, "ba") == [3, 0]


def test_task_that_fails_too_often_ends_the_step_with_its_reasons() -> None:
    dispatch = dispatch_of([None] * 2, max_failures=2)
    dispatch.fail(assigned(dispatch, "a"), "out of memory")
    with pytest.raises(TaskFailedError, match="failed 2 times: NaN") as failure:
        dispatch.fail(assigned(dispatch, "b"), "NaN")
    error = failure.value
    assert (error.video, error.task, error.reasons) == (VIDEO, 0, ["out of memory", "NaN"])


def test_a_second_task_is_on_its_way_only_while_more_wait_than_there_are_workers() -> None:
    dispatch = dispatch_of([None] * 7, "ab")
    # 2 are computed and 2 on their way, when 3 wait; then 1 more would leave 2 for 2 workers.
    granted = dispatch.grants()
    assert Counter(assignment.worker for assignment in granted) == {"a": 2, "b": 2}
    assert dispatch.num_waiting == 3
    assert dispatch.complete(granted[0])
    assert [assignment.worker for assignment in dispatch.grants()] == ["a"]
    assert dispatch.num_waiting == 2
    # From here on a worker is given a task when it has none.
    assert dispatch.complete(dispatch.assignments("a")[0])
    assert dispatch.grants() == []
    assert dispatch.complete(dispatch.assignments("a")[0])
    assert [assignment.worker for assignment in dispatch.grants()] == ["a"]


def test_a_lost_worker_is_held_against_the_task_that_it_was_computing() -> None:
    dispatch = dispatch_of([None] * 5, "a", max_failures=1)
    first, second = dispatch.grants()
    with pytest.raises(TaskFailedError) as failure:
        # The loss of the second is noticed first.
        dispatch.fail(second, "died", is_lost=True)
    assert failure.value.task == first.task
    assert not dispatch.fail(first, "died", is_lost=True)


def test_nothing_of_a_step_that_failed_is_given_out_and_others_go_on() -> None:
    dispatch = dispatch_of([None] * 5, "ab", max_failures=1)
    dispatch.open("other")
    dispatch.submit("other", [None])
    with pytest.raises(TaskFailedError):
        dispatch.fail(assigned(dispatch, "a"), "no kernel")
    dispatch.join("a")
    assert [granted.video for granted in dispatch.grants()] == ["other"]
    assert dispatch.num_waiting == 0
    dispatch.submit(VIDEO, [None])
    assert dispatch.num_waiting == 1, "its next step is another matter"


def test_a_higher_priority_goes_first_and_takes_workers_from_their_groups() -> None:
    dispatch = dispatch_of(["low"] * 4)
    assert assigned(dispatch, "a").video == VIDEO
    dispatch.open("urgent", priority=1)
    dispatch.submit("urgent", ["x"] * 2)
    assert assigned(dispatch, "a").video == "urgent"
    assert [assigned(dispatch, "b").video for _ in range(2)] == ["urgent", VIDEO]


def test_videos_of_one_priority_are_served_alike() -> None:
    """Two workers, steps of equal size: neither video falls behind by more than a step."""
    dispatch = Dispatch()
    dispatch.join("a")
    answered: Counter[Hashable] = Counter()
    for video in ("one", "two"):
        dispatch.open(video)
        dispatch.submit(video, ["path"] * 5)
    for _ in range(60):
        assignment = assigned(dispatch, "a")
        dispatch.complete(assignment)
        answered[assignment.video] += 1
        if answered[assignment.video] % 5 == 0:
            dispatch.submit(assignment.video, ["path"] * 5)
        assert abs(answered["one"] - answered["two"]) <= 5
    assert answered == {"one": 30, "two": 30}


def test_a_new_video_does_not_wait_until_it_has_caught_up() -> None:
    dispatch = dispatch_of([None] * 3)
    answer_all(dispatch, "a")
    dispatch.open("new")
    for video in (VIDEO, "new"):
        dispatch.submit(video, [None] * 2)
    assert len({assigned(dispatch, worker).video for worker in "ab"}) == 2


def test_sticky_tasks_go_to_one_worker_while_it_takes_part() -> None:
    dispatch = Dispatch()
    for worker in "ab":
        dispatch.join(worker)
    for video in (1, 2, 3):
        dispatch.open(video)
        dispatch.submit(video, ["prompt"], sticky=True)
    first = assigned(dispatch, "b")
    assert dispatch.assign("a") is None
    dispatch.complete(first)
    second = assigned(dispatch, "b")
    dispatch.fail(second, "died", is_lost=True)
    assert {video for video, _ in answer_all(dispatch, "a")} == {2, 3}


def test_a_closed_video_has_no_tasks_and_frees_nobody_who_still_computes() -> None:
    dispatch = dispatch_of([None] * 4, "ab")
    running = assigned(dispatch, "a")
    assert dispatch.close(VIDEO) == ("a",)
    assert not dispatch.complete(running)
    assert not dispatch.fail(running, "late")
    assert (dispatch.num_waiting, dispatch.workers) == (0, ("b",))


@given(
    groups=st.lists(
        st.lists(st.sampled_from([None, "global", "local"]), max_size=12), min_size=1, max_size=3
    ),
    events=st.lists(st.tuples(st.sampled_from("gacflj"), st.integers(0, 100)), max_size=300),
)
def test_every_task_is_answered_exactly_once(
    groups: list[list[str | None]], events: list[tuple[str, int]]
) -> None:
    """Any order of grants, answers, failures, losses and joins, answers of dead attempts among
    them; and no worker that has joined idles while a task waits."""
    dispatch = Dispatch(max_failures=10**6)
    for video, groups_of_video in enumerate(groups):
        dispatch.open(video, priority=video % 2)
        dispatch.submit(video, groups_of_video)
    issued: list[Assignment] = []
    answered: list[tuple[Hashable, int]] = []
    for kind, number in events:
        worker = f"w{number % 3}"
        assignment = issued[number % len(issued)] if issued else None
        if kind == "g":
            issued += dispatch.grants()
            idle = [name for name in dispatch.workers if not dispatch.assignments(name)]
            assert not (idle and dispatch.num_waiting)
        elif kind == "j":
            dispatch.join(worker)
        elif kind == "l":
            dispatch.leave(worker)
        elif kind == "a" and worker in dispatch.workers:
            given_now = dispatch.assign(worker)
            issued += [given_now] if given_now else []
        elif kind == "c" and assignment and dispatch.complete(assignment):
            answered.append((assignment.video, assignment.task))
        elif kind == "f" and assignment:
            dispatch.fail(assignment, "died", is_lost=number % 2 == 0)
    for worker in dispatch.workers:
        dispatch.leave(worker)
    dispatch.join("last")
    answered += answer_all(dispatch, "last")
    wanted = [(video, task) for video, of in enumerate(groups) for task in range(len(of))]
    assert sorted(answered) == wanted
