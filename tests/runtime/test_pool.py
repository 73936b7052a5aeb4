"""The pool actor's class in this process, with simulated workers that are always well."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest

from glc_ray.config import DenoiserResources
from glc_ray.runtime import pool as pool_module
from glc_ray.runtime.dispatch import Assignment
from glc_ray.runtime.messages import Failure
from glc_ray.runtime.pool import Pool


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


async def ready(pool: Pool, count: int) -> None:
    while (await pool.occupancy()).ready < count:
        await asyncio.sleep(0)


def test_a_busy_worker_is_not_taken_for_an_idle_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was given two tasks at once: what another video submits must not disturb it."""

    async def scenario() -> None:
        pool = await pool_of(2)
        await pool.open("first", 0, [])
        await ready(pool, 2)
        await pool.submit("first", [None] * 8, False)
        await ready(pool, 2)
        granted = await taken(pool, "first")
        while len(granted) < 4:
            granted += await taken(pool, "first")
        monkeypatch.setattr(pool_module, "_IDLE_S", 0.0)
        await pool.open("second", 0, [])
        await pool.submit("second", [None], False)
        for assignment in granted:
            await pool.complete(assignment, 1.0)
        assert (await pool.occupancy()).busy_s == 4

    asyncio.run(scenario())


def test_a_coordinator_that_died_takes_nothing_of_the_next() -> None:
    async def scenario() -> None:
        pool = await pool_of(1)
        await pool.open("video", 0, [])
        dead = asyncio.create_task(pool.take("video"))
        await asyncio.sleep(0)
        await pool.open("video", 0, [])
        await pool.submit("video", [None], False)
        (assignment,) = await taken(pool, "video")
        assert await asyncio.wait_for(dead, 30) == []
        await pool.complete(assignment, 1.0)
        assert (await pool.occupancy()).busy_s == 1

    asyncio.run(scenario())


def test_a_video_that_failed_takes_no_worker_from_others() -> None:
    """Though nobody has closed it yet."""

    async def scenario() -> None:
        pool = await pool_of(1)
        await pool.open("bad", 0, [])
        await pool.submit("bad", [None], True)
        found = await asyncio.wait_for(pool.take("bad"), 30)
        while not isinstance(found, Failure):
            await pool.fail(found[0], "no tokenizer", True)
            found = await asyncio.wait_for(pool.take("bad"), 30)
        assert (found.task, found.reason) == (0, "failed 3 times: no tokenizer")
        await pool.open("good", 0, [])
        await pool.submit("good", [None], True)
        assert [granted.video for granted in await taken(pool, "good")] == ["good"]

    asyncio.run(scenario())


def test_a_pool_that_was_started_anew_does_not_know_a_video_until_it_is_opened() -> None:
    async def scenario() -> None:
        pool = Pool(DenoiserResources(), was_lost=True)
        await pool.submit("video", [None], False)
        assert await pool.take("video") is None
        assert (await pool.occupancy()).workers == 0
        await pool.open("video", 0, workers(1))
        await pool.submit("video", [None], False)
        (assignment,) = await taken(pool, "video")
        assert assignment.step == 1
        (line,) = await pool.notices()
        assert line.startswith("the pool died and is started anew")
        assert await pool.notices() == []

    asyncio.run(scenario())


class _Gone(SimulatedWorker):
    """A mistake that nobody thought of."""

    def remote(self) -> SimulatedWorker:
        raise KeyError("gone")


def test_nobody_waits_for_a_pool_that_has_failed() -> None:
    async def scenario() -> None:
        pool = Pool(DenoiserResources())
        await pool.open("video", 0, [_Gone("0")])
        failure = await asyncio.wait_for(pool.take("video"), 30)
        assert isinstance(failure, Failure)
        assert failure.reason == "the pool failed: 'gone'"

    asyncio.run(scenario())
