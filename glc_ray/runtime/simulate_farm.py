"""A whole farm, simulated: many videos, workers that differ and die, the real rules of dispatch.

Discrete events in a made-up time, so that thousands of workers and a catalog take minutes. What is
left out: transfers, which overlap with computing since a worker has its next task already.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from glc_ray.runtime.dispatch import Dispatch
from glc_ray.runtime.turns import Assignment


@dataclass(frozen=True)
class FarmModel:
    """What a simulated farm is made of, and what it has to do."""

    speeds: tuple[float, ...]
    """Of each worker; 1 computes a window in ``window_s``."""
    num_videos: int
    num_steps: int
    groups: tuple[Hashable, ...]
    """Of each task of a step."""
    window_s: float
    """Seconds of a task on a worker of speed 1."""
    coordinator_s: float = 0.0
    """Between the last answer of a step and the first task of the next: fusion, VMCR."""
    latency_s: float = 0.0
    """From a worker's answer to its next task, where none is on its way."""
    task_s: float = 0.0
    """Between two tasks of a worker where the next one is there."""
    in_flight: int = 1
    """Videos that are denoised at once."""
    deaths_per_hour: float = 0.0
    """Of each worker; memoryless."""
    killed: tuple[tuple[int, float], ...] = ()
    """(worker, second of the run) of those that die then, whatever ``deaths_per_hour`` says."""
    restart_s: float = 60.0
    """From a death until the worker takes part again."""
    seed: int = 0


@dataclass(frozen=True)
class FarmRun:
    """What became of it."""

    makespan_s: float
    occupancy: float
    """Share of the time of living workers in which they compute what counts, 0..1."""
    busy_s: float
    """Seconds of workers that count."""
    lost_share: float
    """Work that was lost with its worker, as a share of what counts."""
    lost_s: float
    """The same in seconds of workers."""
    num_tasks: int
    num_grants: int
    """Tasks that were given out, lost ones included."""
    deaths: int


def simulate_farm(model: FarmModel) -> FarmRun:
    """Render all videos.

    Raises:
        TaskFailedError: a task lost its worker as often as it may.
    """
    return _Farm(model).run()


@dataclass
class _Worker:
    speed: float
    computes: Assignment | None = None
    since: float = 0.0
    lives: int = 0
    """How often it died: what was to happen to an earlier life does not."""
    joined: float = 0.0


@dataclass
class _Video:
    steps_left: int
    tasks_left: int = 0


@dataclass
class _Farm:
    model: FarmModel
    now: float = 0.0
    busy_s: float = 0.0
    lost_s: float = 0.0
    alive_s: float = 0.0
    done: int = 0
    deaths: int = 0
    dispatch: Dispatch = field(default_factory=Dispatch)
    events: list[tuple[float, int, str, Any]] = field(default_factory=list)
    videos: dict[int, _Video] = field(default_factory=dict)
    begun: int = 0
    ended: int = 0
    order: int = 0

    def __post_init__(self) -> None:
        self.random = random.Random(self.model.seed)  # noqa: S311
        self.workers = [_Worker(speed) for speed in self.model.speeds]

    def run(self) -> FarmRun:
        for worker in range(len(self.workers)):
            self._join(worker)
        for worker, second in self.model.killed:
            self._after(second, "death", worker, self.workers[worker].lives)
        for _ in range(min(self.model.in_flight, self.model.num_videos)):
            self._begin()
        self._grant()
        while self.ended < self.model.num_videos:
            self.now, _, kind, payload = heapq.heappop(self.events)
            getattr(self, f"_on_{kind}")(*payload)
            self._grant()
        self.alive_s += sum(max(0.0, self.now - worker.joined) for worker in self.workers)
        return FarmRun(
            makespan_s=self.now,
            occupancy=self.busy_s / self.alive_s if self.alive_s else 1.0,
            busy_s=self.busy_s,
            lost_share=self.lost_s / self.busy_s if self.busy_s else 0.0,
            lost_s=self.lost_s,
            num_tasks=self.done,
            num_grants=self.dispatch.num_grants,
            deaths=self.deaths,
        )

    def _after(self, seconds: float, kind: str, *payload: Any) -> None:
        # Events of one time happen in the order in which they were foreseen.
        self.order += 1
        heapq.heappush(self.events, (self.now + seconds, self.order, kind, payload))

    def _begin(self) -> None:
        """The next video of the catalog, if there is one."""
        if self.begun == self.model.num_videos:
            return
        video, self.begun = self.begun, self.begun + 1
        self.videos[video] = _Video(self.model.num_steps)
        self.dispatch.open(video)
        self._on_step(video)

    def _on_step(self, video: int) -> None:
        """A video's coordinator is through with a step."""
        state = self.videos[video]
        if not state.steps_left:
            self.dispatch.close(video)
            del self.videos[video]
            self.ended += 1
            self._begin()
            return
        state.steps_left -= 1
        state.tasks_left = len(self.model.groups)
        self.dispatch.submit(video, self.model.groups)

    def _join(self, worker: int) -> None:
        self.workers[worker].joined = self.now
        self.dispatch.join(worker)
        rate = self.model.deaths_per_hour / 3600
        if rate:
            lives = self.workers[worker].lives
            self._after(self.random.expovariate(rate), "death", worker, lives)

    def _on_join(self, worker: int) -> None:
        self._join(worker)

    def _on_death(self, worker: int, life: int) -> None:
        state = self.workers[worker]
        if state.lives != life:
            return
        self.deaths += 1
        self.alive_s += self.now - state.joined
        state.lives += 1
        if state.computes is not None:
            self.lost_s += max(0.0, self.now - state.since)
            self.dispatch.fail(state.computes, "died", is_lost=True)
        else:
            self.dispatch.leave(worker)
        state.computes = None
        # It is not alive until then.
        state.joined = self.now + self.model.restart_s
        self._after(self.model.restart_s, "join", worker)

    def _on_answer(self, worker: int, life: int, assignment: Assignment) -> None:
        state = self.workers[worker]
        if state.lives != life:
            return
        self.busy_s += self.now - state.since
        self.done += 1
        state.computes = None
        self.dispatch.complete(assignment)
        video = int(str(assignment.video))
        self.videos[video].tasks_left -= 1
        if not self.videos[video].tasks_left:
            self._after(self.model.coordinator_s, "step", video)
        if waiting := self.dispatch.assignments(worker):
            self._compute(worker, waiting[0], self.model.task_s)

    def _grant(self) -> None:
        for assignment in self.dispatch.grants():
            worker = int(str(assignment.worker))
            if self.workers[worker].computes is None:
                self._compute(worker, assignment, self.model.latency_s)

    def _compute(self, worker: int, assignment: Assignment, latency_s: float) -> None:
        state = self.workers[worker]
        state.computes, state.since = assignment, self.now + latency_s
        seconds = latency_s + self.model.window_s / state.speed
        self._after(seconds, "answer", worker, state.lives, assignment)
