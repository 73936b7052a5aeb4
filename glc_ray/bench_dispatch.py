"""Bench of the dispatch: simulated denoisers, that sleep, on the real pool."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import click

from glc_ray.cli import FrontDoor
from glc_ray.config import PipelineSpec, VideoJob

_WINDOW_SIZE = 13
_SHAPE = (4, 2, 2)
"""Channels, height and width: next to nothing is moved, so that dispatch alone is measured."""


@click.command(cls=FrontDoor)
@click.option("--workers", default=8, metavar="N", help="Simulated denoisers. [8]")
@click.option("--latent-frames", default=301, metavar="K",
              help="Of each video; 301 are 75 windows of 13 or so. [301]")  # fmt: skip
@click.option("--window-s", default=0.05, metavar="S", help="Each sleeps for a window. [0.05]")
@click.option("--videos", default=1, metavar="V", help="In flight at once. [1]")
@click.option("--steps", default=4, metavar="N", help="Of each video. [4]")
@click.option("--coordinator-s", default=0.0, metavar="S",
              help="Each coordinator sleeps between steps. [0]")  # fmt: skip
@click.option("--telemetry-pairs", "pairs", default=0, metavar="N",
              help="Compare telemetry on and off, N times one after the other. [0]")  # fmt: skip
def dispatch(
    workers: int,
    latent_frames: int,
    window_s: float,
    videos: int,
    steps: int,
    coordinator_s: float,
    pairs: int,
) -> None:
    """Windows through the real pool to denoisers that only sleep: share of the ideal.

    The ideal are full rounds of all workers. Beside it, what the simulation foresees.
    """
    from glc_ray.runtime.cluster import connected
    from glc_ray.runtime.simulate_farm import FarmModel, simulate_farm

    job = _job(latent_frames, steps)
    tasks = _groups(job, latent_frames)
    load = _Load(job, latent_frames, workers, window_s, videos, steps, coordinator_s)
    with connected("local", job.pipeline):
        if pairs:
            _compare(load, pairs)
            return
        seconds, occupancy = _through_the_pool(load)
    rounds_s = math.ceil(len(tasks) / workers) * window_s
    foreseen = simulate_farm(
        FarmModel(
            speeds=(1.0,) * workers,
            num_videos=videos,
            num_steps=steps,
            groups=tuple(tasks),
            window_s=window_s,
            coordinator_s=coordinator_s,
            in_flight=videos,
        )
    )
    click.echo(
        f"{videos} video(s) of {steps} steps of {len(tasks)} batches of {1000 * window_s:.0f} ms, "
        f"{workers} simulated workers: {seconds / steps / videos:.3f} s a step"
    )
    if videos == 1:
        step_s = seconds / steps - coordinator_s
        click.echo(f"share of the ideal ({rounds_s:.2f} s): {rounds_s / step_s:.3f}")
    click.echo(
        f"occupancy {occupancy:.3f}, in the simulation {foreseen.occupancy:.3f}; "
        f"seconds {seconds:.2f}, in the simulation {foreseen.makespan_s:.2f}"
    )


def simulated_groups(latent_frames: int) -> tuple[str | None, ...]:
    """The groups of the windows of a simulated step, as the pool is told."""
    return tuple(_groups(_job(latent_frames, 1), latent_frames))


def _job(latent_frames: int, steps: int) -> VideoJob:
    from glc_ray.pipeline_file import load_pipeline

    frames = 4 * (latent_frames - 1) + 1
    options = [
        ("video.num_frames", frames),
        ("sampling.num_steps", steps),
        ("denoise.batch_size", 1),
    ]
    spec: PipelineSpec = load_pipeline("toyworld", options)
    return VideoJob(prompt="simulated", pipeline=spec)


def _facts(latent_frames: int) -> Any:
    from glc_ray.protocols import ModelFacts

    channels, height, width = _SHAPE
    return ModelFacts(
        window_size=_WINDOW_SIZE,
        temporal_ratio=4,
        spatial_ratio=1,
        latent_channels=channels,
        height=height,
        width=width,
    )


def _groups(job: VideoJob, latent_frames: int) -> list[str | None]:
    """The groups of the batches of a step."""
    from glc_ray.forwards import ForwardPlanner

    facts = _facts(latent_frames)
    forwards = ForwardPlanner(job, facts).forwards(_plan(job, latent_frames, 0))
    return [None if forward.anchor is None else forward.path for forward in forwards]


def _plan(job: VideoJob, latent_frames: int, step: int) -> Any:
    from glc_ray.methods.glc import GLC

    glc = GLC(
        num_latent_frames=latent_frames,
        window_size=_WINDOW_SIZE,
        seed=job.seed,
        options=job.pipeline.glc,
    )
    return glc.plan(step, 999 - step)


class _Sleeper:
    """A simulated denoiser: it sleeps, and answers zeros."""

    def __init__(self, window_s: float) -> None:
        import uuid

        self._window_s = window_s
        self._life = uuid.uuid4().hex

    def ready(self) -> str:
        return self._life

    def encode_prompts(self, prompts: Any, negative_prompt: str) -> dict[str, Any]:
        return {}

    def denoise(self, batch: Any, conditioning: Any, anchor: Any = None) -> Any:
        from glc_ray.runtime.messages import WindowBatchResult

        time.sleep(self._window_s)
        return WindowBatchResult(batch.clips_BFCHW, self._window_s, 0)


class _Driver:
    """A coordinator without mathematics: it sleeps between steps."""

    def __init__(self, farm: Any, job: VideoJob, latent_frames: int) -> None:
        from glc_ray.forwards import ForwardPlanner
        from glc_ray.runtime.pool_denoiser import PoolDenoiser

        self._job, self._latent_frames = job, latent_frames
        planner = ForwardPlanner(job, _facts(latent_frames))
        recorder = farm.telemetry.recorder()
        self._denoiser = PoolDenoiser(farm.pool, farm.workers, planner, recorder=recorder)

    def ready(self) -> None:
        pass

    def run(self, steps: int, coordinator_s: float) -> None:
        import torch

        latents = torch.zeros(1, self._latent_frames, *_SHAPE)
        for step in range(steps):
            for _ in self._denoiser.denoise(latents, _plan(self._job, self._latent_frames, step)):
                pass
            time.sleep(coordinator_s)


@dataclass(frozen=True)
class _Load:
    """What goes through the pool."""

    job: VideoJob
    latent_frames: int
    workers: int
    window_s: float
    videos: int
    steps: int
    coordinator_s: float


def _compare(load: _Load, pairs: int) -> None:
    """Print what telemetry costs: pairs of runs, of which the first is on and off in turn, since
    the seconds of a shared machine drift."""
    import statistics

    ratios = []
    for pair in range(pairs):
        took = {
            is_on: _through_the_pool(load, telemetry=is_on)[0]
            for is_on in ((True, False) if pair % 2 else (False, True))
        }
        ratios.append(took[True] / took[False])
        click.echo(f"on {took[True]:.3f} s, off {took[False]:.3f} s: {ratios[-1]:.4f}")
    click.echo(
        f"with telemetry on against off, median of {pairs} pairs: {statistics.median(ratios):.4f}"
    )


def _through_the_pool(load: _Load, *, telemetry: bool = False) -> tuple[float, float]:
    """Seconds of all steps, and the share of them in which workers were busy."""
    import ray

    from glc_ray.runtime.farm import start_farm
    from glc_ray.runtime.metrics import Telemetry

    sleeper = ray.remote(_Sleeper).options(num_cpus=0)
    workers = [sleeper.remote(load.window_s) for _ in range(load.workers)]
    resources = load.job.pipeline.resources
    counted = Telemetry("bench", is_on=telemetry)
    farm = start_farm("", workers, resources.denoisers, telemetry=counted)
    driver = ray.remote(_Driver).options(num_cpus=0)
    jobs = [load.job.model_copy(update={"seed": seed}) for seed in range(load.videos)]
    drivers = [driver.remote(farm, one, load.latent_frames) for one in jobs]
    ray.get([one.ready.remote() for one in drivers])
    # Once for whatever is loaded late, then for the clock.
    ray.get([one.run.remote(1, 0.0) for one in drivers])
    before = ray.get(farm.pool.occupancy.remote()).busy_s
    start = time.perf_counter()
    ray.get([one.run.remote(load.steps, load.coordinator_s) for one in drivers])
    seconds = time.perf_counter() - start
    busy_s = ray.get(farm.pool.occupancy.remote()).busy_s - before
    for actor in (*drivers, *workers, farm.pool, farm.board):
        ray.kill(actor)
    return seconds, busy_s / seconds / load.workers
