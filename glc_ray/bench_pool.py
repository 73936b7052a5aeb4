"""Denoisers that sleep, on the real pool: what `glc_ray.bench_dispatch` measures."""

from __future__ import annotations

import math
import os
import statistics
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from glc_ray.config import DenoiserResources, VideoJob
from glc_ray.forwards import ForwardPlanner
from glc_ray.methods.glc import GLC
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import ModelFacts, StepPlan
from glc_ray.runtime.farm import Farm, beside_me
from glc_ray.runtime.messages import WindowBatch, WindowBatchResult
from glc_ray.runtime.metrics import Telemetry
from glc_ray.runtime.pool import Pool
from glc_ray.runtime.pool_denoiser import PoolDenoiser

_WINDOW_SIZE = 13
_SHAPE = (4, 2, 2)
"""Channels, height and width: next to nothing is moved, so that dispatch alone is measured."""
_ROUNDS = 10
"""Of which the median says what a message costs."""


@dataclass(frozen=True)
class Load:
    """What simulated denoisers are given to do."""

    speeds: tuple[float, ...]
    """Of each; 1 sleeps ``window_s`` for a window."""
    latent_frames: int
    window_s: float
    num_videos: int = 1
    """In flight at once."""
    num_steps: int = 1
    coordinator_s: float = 0.0
    """That a video's coordinator sleeps between steps."""
    killed: tuple[tuple[int, float], ...] = ()
    """(worker, seconds into its first task) of those that die."""

    @property
    def groups(self) -> tuple[str | None, ...]:
        """Of the batches of a step, as the pool is told."""
        job = sleepers_job(self)
        forwards = _planner(self, job).forwards(_plan(self, job, 0))
        return tuple(None if forward.anchor is None else forward.path for forward in forwards)


@dataclass(frozen=True)
class PoolRun:
    """What became of a load."""

    seconds: float
    busy_s: float
    """That workers slept for answers that count."""
    grants: int
    """Tasks that were given out, lost ones included."""
    windows: tuple[int, ...]
    """Of each index, how many came back over all videos and steps."""
    restarts: int
    restart_s: float
    """From the death of a worker until its process was there again; infinite if none died."""
    cpu_s: dict[str, float]
    """CPU seconds of the pool, the coordinators and the workers that did not die."""

    @property
    def num_windows(self) -> int:
        """That came back."""
        return sum(self.windows)


@dataclass(frozen=True)
class MessageCosts:
    """What a task costs beside its own seconds, with nobody else about."""

    latency_s: float
    """From one answer to the next task, where none is on its way."""
    task_s: float
    """Between two tasks where the next one is there."""


def through_the_pool(load: Load, *, telemetry: bool = False) -> PoolRun:
    """Put a load through a real pool, on the cluster that this process is connected to.

    Args:
        load: what it is to do.
        telemetry: its actors count what they do for Prometheus.
    """
    counted = Telemetry("bench", is_on=telemetry)
    with (
        tempfile.TemporaryDirectory(prefix="glc-ray-") as folder,
        _farm(load, folder, counted) as farm,
    ):
        run = _run(load, farm)
        died = [float(file.read_text()) for file in Path(folder).iterdir()]
        return replace(run, restart_s=_restart_s(farm, died))


def message_costs(window_s: float) -> MessageCosts:
    """Measure them with one worker: steps of few tasks, and steps of many."""
    seconds, tasks = [], []
    with _farm(Load((1.0,), _WINDOW_SIZE, window_s), "", Telemetry()) as farm:
        for frames in (_WINDOW_SIZE, 8 * _WINDOW_SIZE):
            load = Load((1.0,), frames, window_s)
            driver = ray.remote(_Driver).options(num_cpus=0).remote(farm, load, frames)
            rounds = [ray.get(driver.run.remote(1, 0.0)) for _ in range(_ROUNDS)]
            seconds.append(statistics.median(took for took, _ in rounds))
            tasks.append(len(load.groups))
    task_s = (seconds[1] - seconds[0]) / (tasks[1] - tasks[0]) - window_s
    latency_s = seconds[0] - tasks[0] * window_s - (tasks[0] - 1) * task_s
    return MessageCosts(max(0.0, latency_s), max(0.0, task_s))


@contextmanager
def _farm(load: Load, folder: str, telemetry: Telemetry) -> Iterator[Farm]:
    """A pool and its workers; those that are to die say when in ``folder``."""
    sleeper = ray.remote(_Sleeper).options(num_cpus=0, max_restarts=-1)
    dies = dict(load.killed)
    workers = tuple(
        sleeper.remote(load.window_s / speed, dies.get(worker), f"{folder}/{worker}")
        for worker, speed in enumerate(load.speeds)
    )
    pool = beside_me(_MeasuredPool).remote(DenoiserResources(), telemetry)
    pool.enrol.remote(workers)
    try:
        ray.get([worker.ready.remote() for worker in workers])
        yield Farm("", workers, pool, None, telemetry)
    finally:
        for actor in (*workers, pool):
            ray.kill(actor)


def _run(load: Load, farm: Farm) -> PoolRun:
    driver = ray.remote(_Driver).options(num_cpus=0)
    drivers = [driver.remote(farm, load, seed) for seed in range(load.num_videos)]
    # Once for whatever is loaded late, then for the clock.
    ray.get([one.run.remote(1, 0.0) for one in drivers])
    ray.get([worker.arm.remote() for worker in farm.workers])
    dying = dict(load.killed)
    lasting = [worker for index, worker in enumerate(farm.workers) if index not in dying]
    kinds = {"pool": [farm.pool], "coordinators": drivers, "workers": lasting}
    before, cpu_before = ray.get(farm.pool.counts.remote()), _cpu_s(kinds)
    start = time.perf_counter()
    answers = ray.get([one.run.remote(load.num_steps, load.coordinator_s) for one in drivers])
    seconds = time.perf_counter() - start
    after, cpu_after = ray.get(farm.pool.counts.remote()), _cpu_s(kinds)
    return PoolRun(
        seconds=seconds,
        busy_s=after.busy_s - before.busy_s,
        grants=after.grants - before.grants,
        restarts=after.restarts,
        windows=tuple(np.sum([windows for _, windows in answers], axis=0).tolist()),
        restart_s=math.inf,
        cpu_s={kind: cpu_after[kind] - cpu_before[kind] for kind in cpu_after},
    )


def _cpu_s(kinds: Mapping[str, Sequence[Any]]) -> dict[str, float]:
    return {
        kind: sum(ray.get([one.cpu_s.remote() for one in actors])) for kind, actors in kinds.items()
    }


def _restart_s(farm: Farm, died: Sequence[float]) -> float:
    """Of the worker that died, if one did."""
    if not died:
        return math.inf
    asked = [worker.born_at.options(max_task_retries=-1).remote() for worker in farm.workers]
    return max(ray.get(asked)) - max(died)


class _MeasuredPool(Pool):
    """The pool, which says what it has done."""

    async def counts(self) -> _Counts:
        return _Counts(self._dispatch.num_grants, self._busy_s, self._restarts)

    async def cpu_s(self) -> float:
        return time.process_time()


@dataclass(frozen=True)
class _Counts:
    grants: int
    busy_s: float
    restarts: int


class _Sleeper:
    """A simulated denoiser: it sleeps, and answers zeros.

    Args:
        window_s: for so long.
        dies_after_s: of its first task once it is armed; None: it lives.
        died: file that says when.
    """

    def __init__(self, window_s: float, dies_after_s: float | None, died: str) -> None:
        self._window_s = window_s
        self._dies_after_s = dies_after_s
        self._died = Path(died)
        self._is_armed = False
        self._life = uuid.uuid4().hex
        self._born_at = time.time()

    def ready(self) -> str:
        return self._life

    def arm(self) -> None:
        self._is_armed = True

    def born_at(self) -> float:
        return self._born_at

    def cpu_s(self) -> float:
        return time.process_time()

    def encode_prompts(self, prompts: Any, negative_prompt: str) -> dict[str, Any]:
        return {}

    def denoise(self, batch: WindowBatch, conditioning: Any, anchor: Any) -> WindowBatchResult:
        if self._is_armed and self._dies_after_s is not None:
            time.sleep(self._dies_after_s)
            self._died.write_text(str(time.time()))
            os._exit(1)
        time.sleep(self._window_s)
        return WindowBatchResult(batch.clips_BFCHW, self._window_s, 0)


class _Driver:
    """A coordinator without mathematics: it sleeps between steps."""

    def __init__(self, farm: Farm, load: Load, seed: int) -> None:
        self._load = load
        self._job = sleepers_job(load, seed)
        self._denoiser = PoolDenoiser(
            farm.pool,
            farm.workers,
            _planner(load, self._job),
            recorder=farm.telemetry.recorder(),
        )

    def cpu_s(self) -> float:
        return time.process_time()

    def run(self, steps: int, coordinator_s: float) -> tuple[float, list[int]]:
        """Seconds, and how many windows of each index came back."""
        latents = torch.zeros(1, self._load.latent_frames, *_SHAPE)
        windows: Counter[int] = Counter()
        start = time.perf_counter()
        for step in range(steps):
            plan = _plan(self._load, self._job, step)
            windows.update(window.index for window, _ in self._denoiser.denoise(latents, plan))
            time.sleep(coordinator_s)
        seconds = time.perf_counter() - start
        return seconds, [windows[index] for index in range(len(plan.windows))]


def sleepers_job(load: Load, seed: int = 0) -> VideoJob:
    """A video of a load."""
    options = [
        ("video.num_frames", 4 * (load.latent_frames - 1) + 1),
        ("sampling.num_steps", load.num_steps),
        ("denoise.batch_size", 1),
    ]
    return VideoJob(prompt="simulated", seed=seed, pipeline=load_pipeline("toyworld", options))


def _planner(load: Load, job: VideoJob) -> ForwardPlanner:
    channels, height, width = _SHAPE
    facts = ModelFacts(
        window_size=_WINDOW_SIZE,
        temporal_ratio=4,
        spatial_ratio=1,
        latent_channels=channels,
        height=height,
        width=width,
    )
    return ForwardPlanner(job, facts)


def _plan(load: Load, job: VideoJob, step: int) -> StepPlan:
    glc = GLC(
        num_latent_frames=load.latent_frames,
        window_size=_WINDOW_SIZE,
        # All videos and steps alike: a shift of the windows may need one more.
        seed=0,
        options=job.pipeline.glc,
    )
    return glc.plan(0, 999 - step)
