"""The pool's denoisers: who is ready, what each does since when, and who must be replaced."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError

from glc_ray.config import DenoiserResources
from glc_ray.runtime.dispatch import Dispatch
from glc_ray.runtime.errors import reason
from glc_ray.runtime.notices import Notices
from glc_ray.runtime.turns import Assignment

_IDLE_S = 1.0
"""After which an idle worker is asked for a sign of life before it is given a task."""
_SIGN_S = 5.0
"""In which a worker that is well says so."""
_TELL_S = 60.0
"""Between two words of a pool that has nobody."""
_REMEMBERED = 64
"""Tasks whose seconds say how long one usually takes."""


class PoolWorkers:
    """Waits for those that start, and knows those that do not answer.

    Args:
        resources: how long to wait for an answer.
        dispatch: who is ready joins it, who is not leaves it.
        notices: for people.
        run: has a coroutine run.
        on_ready: called when one is ready.
        on_hopeless: called with the reason when none is, nor is being started any more.
    """

    def __init__(
        self,
        resources: DenoiserResources,
        dispatch: Dispatch,
        notices: Notices,
        *,
        run: Callable[[Coroutine[Any, Any, None]], None],
        on_ready: Callable[[], None],
        on_hopeless: Callable[[str], None],
    ) -> None:
        self._handles: tuple[Any, ...] = ()
        self._resources = resources
        self._least_patience_s = resources.least_patience_s
        self._dispatch, self._notices = dispatch, notices
        self._run, self._on_ready, self._on_hopeless = run, on_ready, on_hopeless
        self._starting: set[int] = set()
        self._lives: dict[int, str] = {}
        """Of each worker, when it answered last that it is ready."""
        self._killed: set[str] = set()
        """Lives of workers that were killed and may not know it yet."""
        self._told: set[int] = set()
        """Workers whose loss the notices have, until they are ready again."""
        self._since: dict[int, float] = {}
        """When each worker began what it computes."""
        self._idle: dict[int, float] = {}
        """Since when."""
        self._unsure: set[int] = set()
        """Workers that were given a task while they were idle, and did not answer since: they may
        have died before."""
        self._took: deque[float] = deque(maxlen=_REMEMBERED)
        self._any_ready_at = time.monotonic()

    def __len__(self) -> int:
        return len(self._handles)

    def enrol(self, handles: Sequence[Any], *, are_busy: bool) -> None:
        """Who they are, called by their positions; each is waited for."""
        self._handles = tuple(handles)
        for worker in range(len(self._handles)):
            self.await_ready(worker, is_busy=are_busy)

    # What becomes of tasks

    def given(self, worker: int) -> None:
        """It was granted a task; it begins with it now, if it had none."""
        if worker not in self._since:
            self._begins(worker)

    def answered(self, worker: int, seconds: float | None) -> None:
        """It is through with a task, after the seconds of a forward, if it was one."""
        if seconds is not None:
            self._took.append(seconds)
        self._unsure.discard(worker)
        self._begins(worker)

    def is_unsure(self, worker: int) -> bool:
        """Whether it may have died before it was given what it has."""
        return worker in self._unsure

    def failed(self, worker: int, why: str, *, is_lost: bool) -> None:
        """It failed: it was lost, or its device may be sick. It is started anew."""
        if not is_lost:
            # It lives, but a CUDA context does not heal after an error.
            self._kill(worker)
        self._told.add(worker)
        self._notices.add(
            f"denoiser {worker} {'is lost' if is_lost else 'failed'} ({why}); it is started anew, "
            "and what it had waits for whoever is free"
        )
        self.await_ready(worker)

    def _begins(self, worker: int) -> None:
        """A worker begins its next task now, or is idle."""
        if self._dispatch.assignments(worker):
            self._since[worker] = time.monotonic()
            if self._idle.pop(worker, None) is not None:
                self._unsure.add(worker)
        else:
            self._since.pop(worker, None)
            self._idle[worker] = time.monotonic()

    # Who is ready

    def ask_idle(self) -> None:
        """Ask those that have been idle for a while for a sign of life, before they get a task."""
        for worker, since in list(self._idle.items()):
            if time.monotonic() - since > _IDLE_S:
                self.await_ready(worker, is_asked=True)

    def await_ready(self, worker: Any, *, is_busy: bool = False, is_asked: bool = False) -> None:
        """A worker takes part when it has answered that it is ready.

        Args:
            worker: which.
            is_busy: it computes what nobody waits for, and answers when it is through.
            is_asked: it was well when it was last heard of, and should answer at once.
        """
        self._dispatch.leave(worker, is_asked=is_asked)
        self._since.pop(worker, None)
        self._idle.pop(worker, None)
        self._unsure.discard(worker)
        if worker not in self._starting:
            self._starting.add(worker)
            self._run(self._welcome(worker, is_busy=is_busy, is_asked=is_asked))

    async def _welcome(self, worker: int, *, is_busy: bool, is_asked: bool) -> None:
        before, life = self._lives.get(worker), ""
        try:
            while not life or life in self._killed:
                # Ray repeats the question for as long as the actor is being restarted, somewhere.
                # One that was killed may have answered before the kill arrived.
                asked = self._handles[worker].ready.options(max_task_retries=-1).remote()
                answer = asyncio.wrap_future(asked.future())
                if not await _comes(answer, self._patience_s() if is_busy else _SIGN_S):
                    # Nobody waits for what it may have loaded.
                    self._dispatch.leave(worker)
                    if is_asked and not await _comes(answer, self._patience_s() - _SIGN_S):
                        self._replace_idle(worker)
                    elif is_busy:
                        self._kill(worker)
                    # Whoever starts takes what time it needs.
                    is_busy = is_asked = False
                life = await answer
        except RayError as error:
            self._starting.discard(worker)
            self._dispatch.leave(worker)
            self._notices.add(f"denoiser {worker} cannot start: {reason(error)}")
            if not self._starting and not self._dispatch.workers:
                self._on_hopeless(f"no denoiser can start: {reason(error)}")
            return
        if life != before:
            self._dispatch.leave(worker)
            if before is not None and before not in self._killed and worker not in self._told:
                self._notices.add(f"denoiser {worker} died while it was idle, and is started anew")
        self._told.discard(worker)
        self._starting.discard(worker)
        self._lives[worker] = life
        self._dispatch.join(worker)
        # It is given a task at once, or is idle from now on.
        self._on_ready()
        if not self._dispatch.assignments(worker):
            self._begins(worker)

    # Who is not

    def _replace_idle(self, worker: int) -> None:
        """It was well and idle, and hangs."""
        self._kill(worker)
        self._told.add(worker)
        self._notices.add(
            f"denoiser {worker} is lost (no answer in {self._patience_s():.0f} s while it was "
            "idle); it is started anew"
        )

    def silent(self) -> Iterator[tuple[Assignment, str]]:
        """What those hold that do not answer, and why they are given up; they are killed."""
        now, patience_s = time.monotonic(), self._patience_s()
        for worker, since in list(self._since.items()):
            held, silent_s = self._dispatch.assignments(worker), now - since
            if not held or silent_s <= patience_s:
                continue
            why = f"no answer in {silent_s:.0f} s, where {self._usual_s():.1f} are usual"
            if not self._took:
                # Nobody knows yet what is usual. Should all be well, but slow, the next attempts
                # have the time that they need.
                self._least_patience_s = 2 * patience_s
                why = (
                    f"no answer in {silent_s:.0f} s, nor one before; where a forward takes so "
                    "long, set resources.denoisers.least_patience_s higher"
                )
            self._kill(worker)
            yield held[0], why

    def tell_waiting(self) -> None:
        """A cluster that lost its nodes may get others, so that the wait for them has no end."""
        now = time.monotonic()
        if self._dispatch.workers or not self._lives:
            self._any_ready_at = now
        elif now - self._any_ready_at > _TELL_S:
            self._any_ready_at = now
            self._notices.add(
                f"for {_TELL_S:.0f} s no denoiser has been ready: each begins when the cluster has "
                "room for it; SIGTERM stores what is in work, to go on with later"
            )

    def _kill(self, worker: int) -> None:
        # One that never answered this pool may have been given work by one that died.
        if worker in self._lives:
            self._killed.add(self._lives[worker])
        ray.kill(self._handles[worker], no_restart=False)

    def _usual_s(self) -> float:
        return statistics.median(self._took) if self._took else 0.0

    def _patience_s(self) -> float:
        return max(self._resources.patience * self._usual_s(), self._least_patience_s)


async def _comes(answer: asyncio.Future[str], timeout_s: float) -> bool:
    """Whether an answer is there in time; it is waited for on, if not."""
    done, _ = await asyncio.wait([answer], timeout=max(0.0, timeout_s))
    return bool(done)
