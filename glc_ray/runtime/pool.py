"""The pool actor: knows the denoisers and grants them to the videos in flight.

Only names and numbers pass through it. A coordinator that was granted a worker sends it the clips
and gets the answer from it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from typing import Any

from glc_ray.config import DenoiserResources
from glc_ray.runtime.dispatch import Dispatch, TaskFailedError
from glc_ray.runtime.errors import reason
from glc_ray.runtime.messages import Failure
from glc_ray.runtime.metrics import Telemetry
from glc_ray.runtime.notices import Notices
from glc_ray.runtime.pool_metrics import PoolMetrics
from glc_ray.runtime.pool_workers import PoolWorkers
from glc_ray.runtime.turns import Assignment
from glc_ray.store.run_status import Occupancy

_LOG = logging.getLogger(__name__)
_MAX_FAILURES = 3
"""Of one task, before its video fails."""
_WATCH_S = 1.0


class Pool:
    """Grants workers, restarts those that fail, and replaces those that do not answer.

    A pool that is started anew, after its process died, knows nothing: every coordinator opens its
    video again, and says again who the workers are.

    Args:
        resources: how long to wait for an answer.
        telemetry: what it counts for.
        was_lost: it takes the place of one that died, so that its workers may be at work.
    """

    def __init__(
        self,
        resources: DenoiserResources,
        telemetry: Telemetry | None = None,
        *,
        was_lost: bool = False,
    ) -> None:
        self._was_lost = was_lost
        self._notices = Notices()
        if was_lost:
            self._notices.add(
                "the pool died and is started anew; its videos go on in the step that they are in"
            )
        self._dispatch = Dispatch(max_failures=_MAX_FAILURES)
        self._tickets: dict[str, str] = {}
        """Of the videos that are open, which the dispatch and all that follows know by them."""
        self._newest = 0
        self._granted: dict[str, list[Assignment]] = {}
        """Grants that their video's coordinator has not fetched yet."""
        self._failed: dict[str, Failure] = {}
        self._hopeless: Failure | None = None
        """Why no worker is left: none is ready, and none is being started any more."""
        self._news: dict[str, asyncio.Event] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._workers = PoolWorkers(
            resources,
            self._dispatch,
            self._notices,
            run=self._run,
            on_ready=self._grant,
            on_hopeless=self._without_hope,
        )
        self._busy_s = 0.0
        self._restarts = 0
        self._metrics = PoolMetrics(telemetry or Telemetry())
        if telemetry is not None:
            telemetry.log()

    # What coordinators call

    async def open(
        self, video: str, priority: int, workers: Sequence[Any], ticket: str = ""
    ) -> str:
        """A video's coordinator begins, perhaps anew after it or the pool died.

        Args:
            video: its specification hash.
            priority: higher goes first.
            workers: handles of the denoiser actors, from everybody the same; a worker is called by
                its position.
            ticket: that this coordinator had before it lost the pool.

        Returns:
            The ticket by which it is known from now on, and no earlier life of it. Empty where a
            later one has taken over: a coordinator that was cut off, and thought dead, must not
            take the workers from it.
        """
        await self.enrol(workers)
        current = self._tickets.get(video)
        if current is not None:
            if ticket and _number(ticket) < _number(current):
                return ""
            self._close(current)
        self._newest = max(self._newest + 1, time.time_ns())
        self._tickets[video] = ticket = ticket or f"{video}.{self._newest}"
        self._dispatch.open(ticket, priority=priority)
        self._granted[ticket] = []
        self._news[ticket] = asyncio.Event()
        if self._hopeless is not None:
            self._give_up(ticket, self._hopeless)
        return ticket

    async def submit(
        self, ticket: str, groups: Sequence[str | None], sticky: bool
    ) -> list[Assignment] | None:
        """The tasks of a video's next step, as `Dispatch.submit` takes them.

        Returns:
            What is granted; None where the video is not open by this ticket: the pool has died
            since it was, or a later life of the coordinator has it.
        """
        if not self._dispatch.is_open(ticket):
            return None
        for worker in self._dispatch.submit(ticket, groups, sticky=sticky):
            self._workers.await_ready(worker, is_busy=True)
        self._granted[ticket] = []
        self._workers.ask_idle()
        return self._granted_to(ticket)

    async def take(self, ticket: str) -> list[Assignment] | Failure | None:
        """What is granted without being asked for, as soon as it is anything: since another video
        left a worker, or a worker is ready again. Or why the video failed; None where it is not
        open, or is closed meanwhile."""
        news = self._news.get(ticket)
        while news is not None:
            await news.wait()
            if self._news.get(ticket) is not news:
                break
            news.clear()
            if ticket in self._failed:
                return self._failed[ticket]
            if granted := self._granted.get(ticket):
                self._granted[ticket] = []
                return granted
        return None

    async def complete(
        self, ticket: str, answers: Sequence[tuple[Assignment, float | None]]
    ) -> list[Assignment] | None:
        """Workers answered; what is granted to the video now, None where it is not open.

        Args:
            ticket: of the coordinator that calls.
            answers: with the seconds of a forward, if it was one.
        """
        for assignment, seconds in answers:
            self._complete(assignment, seconds)
        return self._granted_to(ticket) if ticket in self._news else None

    async def fail(self, assignment: Assignment, why: str, is_lost: bool) -> None:
        """A worker failed: it was lost, or its device may be sick, and is restarted."""
        if self._fail(assignment, why, is_lost=is_lost):
            self._metrics.failed(assignment.worker, "lost" if is_lost else "failed")

    async def close(self, ticket: str) -> None:
        """A video's coordinator is through with it."""
        self._close(ticket)

    async def give_up(self, video: str) -> None:
        """Its coordinator is lost."""
        if ticket := self._tickets.get(video):
            self._close(ticket)

    # What the run calls

    async def enrol(self, workers: Sequence[Any]) -> None:
        """Who the workers are; the first call counts. They are waited for from then on."""
        if not self._running:
            self._metrics.begin(len(workers))
            self._workers.enrol(workers, are_busy=self._was_lost)
            self._run(self._watch())

    async def notices(self) -> list[str]:
        """What happened to workers since the last call, for people."""
        return self._notices.take()

    async def occupancy(self) -> Occupancy:
        """What the workers do now, and did."""
        return self._occupancy()

    def _occupancy(self) -> Occupancy:
        busy = sum(bool(self._dispatch.assignments(w)) for w in self._dispatch.workers)
        return Occupancy(
            workers=len(self._workers),
            ready=len(self._dispatch.workers),
            busy=busy,
            waiting=self._dispatch.num_waiting,
            busy_s=self._busy_s,
            restarts=self._restarts,
        )

    # Grants

    def _grant(self, asks: str | None = None) -> None:
        """Grant all that can be; the video that asks is not told, since it is answered."""
        for assignment in self._dispatch.grants():
            self._workers.given(_worker(assignment))
            ticket = str(assignment.video)
            self._granted[ticket].append(assignment)
            if ticket != asks:
                self._news[ticket].set()

    def _granted_to(self, ticket: str) -> list[Assignment]:
        """For a coordinator that asks: what is granted now, and was not fetched."""
        self._grant(ticket)
        granted, self._granted[ticket] = self._granted[ticket], []
        return granted

    def _complete(self, assignment: Assignment, seconds: float | None) -> None:
        is_taken = self._dispatch.complete(assignment)
        if seconds is not None:
            self._metrics.answered(assignment.worker, seconds, is_taken=is_taken)
        if is_taken:
            self._busy_s += seconds or 0.0
            self._workers.answered(_worker(assignment), seconds)

    def _fail(self, assignment: Assignment, why: str, *, is_lost: bool) -> bool:
        """Whether it was the answer of the task's owner that failed."""
        worker = _worker(assignment)
        # What died unseen while it was idle is no task's fault.
        counts = not (is_lost and self._workers.is_unsure(worker))
        try:
            if not self._dispatch.fail(assignment, why, is_lost=is_lost, counts=counts):
                return False
        except TaskFailedError as error:
            self._give_up(str(error.video), Failure(error.task, str(error)))
        _LOG.warning(
            "worker %d: %s; task %d waits again",
            worker,
            why,
            assignment.task,
            extra={
                "video": str(assignment.video).rpartition(".")[0],
                "step": assignment.step,
                "attempt": assignment.attempt,
                "worker": worker,
            },
        )
        self._restarts += 1
        self._workers.failed(worker, why, is_lost=is_lost)
        self._grant()
        return True

    def _give_up(self, ticket: str, failure: Failure) -> None:
        self._failed[ticket] = failure
        self._news[ticket].set()

    def _close(self, ticket: str) -> None:
        for worker in self._dispatch.close(ticket):
            self._workers.await_ready(worker, is_busy=True)
        self._granted.pop(ticket, None)
        self._failed.pop(ticket, None)
        video = ticket.rpartition(".")[0]
        if self._tickets.get(video) == ticket:
            del self._tickets[video]
        if news := self._news.pop(ticket, None):
            news.set()
        self._grant()

    # What runs beside the calls

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            # Nobody may wait for what half a pool does not do any more.
            for ticket in list(self._news):
                self._give_up(ticket, Failure(None, f"the pool failed: {reason(error)}"))

    async def _watch(self) -> None:
        """Replace workers that do not answer in a multiple of the usual time."""
        while True:
            self._metrics.stand(self._occupancy())
            await asyncio.sleep(_WATCH_S)
            self._workers.tell_waiting()
            for assignment, why in self._workers.silent():
                self._fail(assignment, why, is_lost=True)
                self._metrics.failed(assignment.worker, "silent")

    def _without_hope(self, why: str) -> None:
        """Nobody may wait, now or later, for workers that do not come."""
        self._hopeless = Failure(None, why)
        for ticket in list(self._news):
            self._give_up(ticket, self._hopeless)


def _worker(assignment: Assignment) -> int:
    return int(str(assignment.worker))


def _number(ticket: str) -> int:
    """Rises from one life of a coordinator to the next, over lives of the pool."""
    return int(ticket.rpartition(".")[2])
