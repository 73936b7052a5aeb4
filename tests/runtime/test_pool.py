"""The pool actor's class in this process, with simulated workers that are always well."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest
from ray.exceptions import RayActorError

from glc_ray.config import DenoiserResources
from glc_ray.runtime import pool_workers
from glc_ray.runtime.messages import Failure
from glc_ray.runtime.pool import Pool
from glc_ray.runtime.turns import Assignment


class SimulatedWorker:
    """Answers at once that it is ready, as a handle of an actor does."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.asked = 0

    @property
    def ready(self) -> SimulatedWorker:
        return self

    def options(self, **_: Any) -> SimulatedWorker:
        return self

    def remote(self) -> SimulatedWorker:
        self.asked += 1
        return self

    def future(self) -> Future[str]:
        answer: Future[str] = Future()
        answer.set_result(f"life of {self._name}")
        return answer


async def pool_of(count: int) -> Pool:
    pool = Pool(DenoiserResources())
    await pool.enrol(workers(count))
    return pool


def workers(count: int) -> list[SimulatedWorker]:
    return [SimulatedWorker(str(i)) for i in range(count)]


async def taken(pool: Pool, video: str) -> list[Assignment]:
    found = await asyncio.wait_for(pool.take(video), 30)
    assert not isinstance(found, Failure)
    return found


async def submitted(pool: Pool, video: str, groups: list[None], sticky: bool) -> list[Assignment]:
    """What is granted for a step, at once or as soon as a worker is ready."""
    return await pool.submit(video, groups, sticky) or await taken(pool, video)


async def ready(pool: Pool, count: int) -> None:
    while (await pool.occupancy()).ready < count:
        await asyncio.sleep(0)


def test_a_busy_worker_is_not_taken_for_an_idle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was given two tasks at once: what another video submits must not disturb it."""

    async def scenario() -> None:
        pool = await pool_of(2)
        first = await pool.open("first", 0, [])
        await ready(pool, 2)
        granted = await pool.submit(first, [None] * 8, False)
        assert len(granted) == 4
        monkeypatch.setattr(pool_workers, "_IDLE_S", 0.0)
        second = await pool.open("second", 0, [])
        await pool.submit(second, [None], False)
        await pool.complete(first, [(assignment, 1.0) for assignment in granted])
        assert (await pool.occupancy()).busy_s == 4

    asyncio.run(scenario())


def test_a_coordinator_that_died_takes_nothing_of_the_next() -> None:
    async def scenario() -> None:
        pool = await pool_of(1)
        video = await pool.open("video", 0, [])
        dead = asyncio.create_task(pool.take(video))
        await asyncio.sleep(0)
        video = await pool.open("video", 0, [])
        (assignment,) = await submitted(pool, video, [None], False)
        assert await asyncio.wait_for(dead, 30) is None
        assert await pool.complete(video, [(assignment, 1.0)]) == []
        assert (await pool.occupancy()).busy_s == 1

    asyncio.run(scenario())


def test_a_late_answer_of_a_coordinator_that_died_takes_nothing_of_the_next() -> None:
    async def scenario() -> None:
        pool = await pool_of(1)
        dead = await pool.open("video", 0, [])
        (late,) = await submitted(pool, dead, [None], False)
        video = await pool.open("video", 0, [])
        await ready(pool, 1)
        assert await pool.complete(dead, [(late, 1.0)]) is None
        (assignment,) = await submitted(pool, video, [None], False)
        assert await pool.complete(dead, [(late, 1.0)]) is None
        assert await pool.complete(video, [(assignment, 2.0)]) == []
        assert (await pool.occupancy()).busy_s == 2

    asyncio.run(scenario())


def test_a_coordinator_that_was_cut_off_does_not_take_the_workers_from_the_next() -> None:
    """It lives on the far side of a broken network, and comes back."""

    async def scenario() -> None:
        pool = await pool_of(1)
        cut_off = await pool.open("video", 0, [])
        await submitted(pool, cut_off, [None], False)
        video = await pool.open("video", 0, [])
        assert await pool.submit(cut_off, [None], False) is None
        assert await pool.open("video", 0, [], cut_off) == ""
        await pool.close(cut_off)
        (assignment,) = await submitted(pool, video, [None], False)
        assert assignment.video == video
        # Whoever lost the pool, and comes first to the next one, is known there until it is told
        # of a later one.
        anew = await pool_of(1)
        assert await anew.open("video", 0, [], cut_off) == cut_off
        assert await anew.open("video", 0, [], video) == video
        assert await anew.open("video", 0, [], cut_off) == ""
        await anew.give_up("video")
        assert await anew.submit(video, [None], False) is None

    asyncio.run(scenario())


def test_an_answer_is_told_what_is_granted_and_others_are_told_without_asking() -> None:
    async def scenario() -> None:
        pool = await pool_of(1)
        first = await pool.open("first", 0, [])
        await ready(pool, 1)
        one, two = await pool.submit(first, [None] * 3, False)
        second = await pool.open("second", 1, [])
        waits = asyncio.create_task(pool.take(second))
        assert await pool.submit(second, [None], False) == []
        assert await pool.complete(first, [(one, 1.0)]) == []
        (other,) = await asyncio.wait_for(waits, 30)
        assert other.video == second
        waits = asyncio.create_task(pool.take(first))
        assert await pool.complete(first, [(two, 1.0)]) == []
        assert await pool.complete(second, [(other, 1.0)]) == []
        (last,) = await asyncio.wait_for(waits, 30)
        assert (last.video, last.task) == (first, 2)

    asyncio.run(scenario())


def test_a_video_that_fails_is_told_while_it_waits_for_nothing_else() -> None:
    async def scenario() -> None:
        pool = await pool_of(1)
        video = await pool.open("video", 0, [])
        (granted,) = await submitted(pool, video, [None], False)
        waits = asyncio.create_task(pool.take(video))
        for _ in range(2):
            await pool.fail(granted, "died", True)
            (granted,) = await asyncio.wait_for(waits, 30)
            waits = asyncio.create_task(pool.take(video))
        await pool.fail(granted, "died", True)
        assert await asyncio.wait_for(waits, 30) == Failure(0, "failed 3 times: died")

    asyncio.run(scenario())


def test_a_video_that_failed_takes_no_worker_from_others() -> None:
    """Though nobody has closed it yet."""

    async def scenario() -> None:
        pool = await pool_of(1)
        bad = await pool.open("bad", 0, [])
        found: list[Assignment] | Failure = await submitted(pool, bad, [None], True)
        while not isinstance(found, Failure):
            await pool.fail(found[0], "no tokenizer", True)
            found = await asyncio.wait_for(pool.take(bad), 30)
        assert (found.task, found.reason) == (0, "failed 3 times: no tokenizer")
        good = await pool.open("good", 0, [])
        granted = await submitted(pool, good, [None], True)
        assert [one.video for one in granted] == [good]

    asyncio.run(scenario())


def test_a_pool_that_was_started_anew_does_not_know_a_video_until_it_is_opened() -> None:
    async def scenario() -> None:
        pool = Pool(DenoiserResources(), was_lost=True)
        earlier = await (await pool_of(1)).open("video", 0, [])
        assert await pool.submit(earlier, [None], False) is None
        assert await pool.take(earlier) is None
        assert (await pool.occupancy()).workers == 0
        video = await pool.open("video", 0, workers(1), earlier)
        assert video == earlier
        (assignment,) = await submitted(pool, video, [None], False)
        assert assignment.step == 1
        (line,) = await pool.notices()
        assert line.startswith("the pool died and is started anew")
        assert await pool.notices() == []

    asyncio.run(scenario())


class _Broken(SimulatedWorker):
    """Cannot load its model."""

    def future(self) -> Future[str]:
        answer: Future[str] = Future()
        answer.set_exception(RayActorError())
        return answer


@pytest.mark.parametrize("opens_first", [True, False])
def test_nobody_waits_for_workers_that_cannot_start(opens_first: bool) -> None:
    """Neither whose video is open when the last of them fails, nor who comes later."""

    async def scenario() -> None:
        pool = Pool(DenoiserResources())
        broken = [_Broken("0"), _Broken("1")]
        first = ""
        if opens_first:
            first = await pool.open("first", 0, broken)
        else:
            await pool.enrol(broken)
            for _ in range(20):
                await asyncio.sleep(0)
        for video in (first or await pool.open("first", 0, broken), ""):
            ticket = video or await pool.open("second", 0, broken)
            await pool.submit(ticket, [None], False)
            failure = await asyncio.wait_for(pool.take(ticket), 30)
            assert isinstance(failure, Failure)
            assert failure.reason.startswith("no denoiser can start")
            await pool.close(ticket)

    asyncio.run(scenario())


class _Hanging(SimulatedWorker):
    """Answers the first question, and no other one before it is killed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.lives = 1
        self._open: list[Future[str]] = []

    def future(self) -> Future[str]:
        if self.asked == 1 or self.lives > 1:
            return super().future()
        self._open.append(Future())
        return self._open[-1]

    def kill(self) -> None:
        self.lives += 1
        for answer in self._open:
            answer.set_result(f"life {self.lives} of {self._name}")
        self._open.clear()


def test_an_idle_worker_that_hangs_is_replaced_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        hanging = _Hanging("0")
        pool = Pool(DenoiserResources(least_patience_s=0.001))
        await pool.enrol([hanging])
        await ready(pool, 1)
        video = await pool.open("video", 0, [])
        # Who is idle is asked before it is given a task.
        (granted,) = await submitted(pool, video, [None], False)
        assert (granted.worker, hanging.lives) == (0, 2)
        assert await pool.notices() == [
            "denoiser 0 is lost (no answer in 0 s while it was idle); it is started anew"
        ]

    for name in ("_IDLE_S", "_SIGN_S"):
        monkeypatch.setattr(pool_workers, name, 0.0)
    monkeypatch.setattr(pool_workers.ray, "kill", lambda worker, no_restart: worker.kill())
    asyncio.run(asyncio.wait_for(scenario(), 60))


class _Loading(_Hanging):
    """Answers nothing before it has loaded, which takes long."""

    def future(self) -> Future[str]:
        self._open.append(Future())
        return self._open[-1]


def test_a_worker_that_loads_is_given_the_time_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        loading = _Loading("0")
        pool = Pool(DenoiserResources(least_patience_s=0.001))
        await pool.enrol([loading])
        await asyncio.sleep(0.1)
        assert loading.lives == 1
        (answer,) = loading._open
        answer.set_result("life")
        await ready(pool, 1)

    monkeypatch.setattr(pool_workers, "_SIGN_S", 0.0)
    monkeypatch.setattr(pool_workers.ray, "kill", lambda worker, no_restart: worker.kill())
    asyncio.run(asyncio.wait_for(scenario(), 60))


class _Gone(SimulatedWorker):
    """A mistake that nobody thought of."""

    def remote(self) -> SimulatedWorker:
        raise KeyError("gone")


def test_nobody_waits_for_a_pool_that_has_failed() -> None:
    async def scenario() -> None:
        pool = Pool(DenoiserResources())
        video = await pool.open("video", 0, [_Gone("0")])
        failure = await asyncio.wait_for(pool.take(video), 30)
        assert isinstance(failure, Failure)
        assert failure.reason == "the pool failed: 'gone'"

    asyncio.run(scenario())
