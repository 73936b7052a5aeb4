"""Seconds of the job's own batches on this machine, with the real model."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from glc_ray.backbones import registry as backbones
from glc_ray.config import VideoJob
from glc_ray.estimate.clocks import BatchKind, MeasuredClock, kind_of
from glc_ray.estimate.figures import BatchSeconds
from glc_ray.estimate.work import Step, alike
from glc_ray.methods import registry as methods
from glc_ray.protocols import (
    Forward,
    NoiseScheduler,
    SchedulerState,
    StepPlan,
    StepResult,
    UserError,
    Window,
)
from glc_ray.sampler import LocalDenoiser, StepReport, sample, torch_threads

_REPEATS = 3
_COORDINATOR_STEPS = 3

OnBatch = Callable[[int, int], None]
"""Called with (kinds of batches timed, kinds in all)."""


@dataclass(frozen=True)
class Measurement:
    """What was timed."""

    clock: MeasuredClock
    batches: tuple[BatchSeconds, ...]
    coordinator_step_s: float
    """Fusion, the noise scheduler's step and the method's update of one step."""


def measure(
    job: VideoJob, steps: tuple[Step, ...], *, on_batch: OnBatch | None = None
) -> Measurement:
    """Load the model and time each kind of batch that the job has, as a worker would run it.

    Args:
        job: its model, threads and prompts.
        steps: of the job.
        on_batch: told of progress.

    Raises:
        UserError: the job denoises on GPUs, and there is none here.
    """
    denoiser = LocalDenoiser.of(job, _device(job))
    kinds: dict[BatchKind, Forward] = {}
    for forward in (forward for step, _ in alike(steps) for forward in step.forwards):
        kinds.setdefault(kind_of(forward), forward)
    batches: dict[BatchKind, BatchSeconds] = {}
    with torch_threads(job.pipeline.denoise.threads):
        for kind, forward in kinds.items():
            batches[kind] = _time(denoiser, forward, job.pipeline.video.num_frames)
            if on_batch is not None:
                on_batch(len(batches), len(kinds))
    return Measurement(MeasuredClock(batches), tuple(batches.values()), coordinator_step_s(job))


def coordinator_step_s(job: VideoJob) -> float:
    """Seconds of one step outside of the model: fusion, the noise scheduler and refinement."""
    pipeline = job.pipeline
    facts = backbones.facts(pipeline.model)
    generator = torch.Generator().manual_seed(0)
    scheduler = backbones.load_scheduler(pipeline.model, pipeline.sampling, generator)
    reports: list[StepReport] = []
    with torch_threads(pipeline.fuse.threads):
        sample(
            torch.randn(facts.latents_shape(pipeline.video.num_frames), generator=generator),
            method=methods.create(job, facts),
            scheduler=_FirstSteps(scheduler),
            denoiser=_RandomPredictions(generator),
            on_step=lambda report, latents: reports.append(report),
        )
    return median(report.fuse_s + report.update_s for report in reports)


def _device(job: VideoJob) -> torch.device:
    if job.pipeline.resources.denoisers.num_gpus == 0:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"--measure: {job.pipeline.name} denoises on GPUs (resources.denoisers.num_gpus = "
            f"{job.pipeline.resources.denoisers.num_gpus:g}), and torch {torch.__version__} finds "
            "none here; run it on a node that has one, or state the seconds of a window with "
            "--seconds-per-forward"
        )
    return torch.device("cuda")


def _time(denoiser: LocalDenoiser, forward: Forward, num_frames: int) -> BatchSeconds:
    """Time one kind of batch, the anchor at hand and everything warm."""
    _, _, *shape = denoiser.backbone.facts.latents_shape(num_frames)
    length = len(forward.windows[0].frames)
    generator = torch.Generator().manual_seed(0)
    clips = torch.randn((len(forward.windows), length, *shape), generator=generator)
    anchor = torch.randn((1, length, *shape), generator=generator)
    seconds = []
    for _ in range(1 + _REPEATS):
        start = time.perf_counter()
        # To main memory, as an actor's answer: it also waits for the device.
        denoiser.backbone.predict(clips, forward, denoiser.conditioning, anchor).cpu()
        seconds.append(time.perf_counter() - start)
    timed = seconds[1:]
    path, num_clips, is_anchor = kind_of(forward)
    return BatchSeconds(path, num_clips, is_anchor, median(timed), min(timed), max(timed))


class _FirstSteps:
    """A noise scheduler that ends after a few steps."""

    def __init__(self, scheduler: NoiseScheduler) -> None:
        self._scheduler = scheduler

    @property
    def timesteps(self) -> tuple[float, ...]:
        return self._scheduler.timesteps[:_COORDINATOR_STEPS]

    @property
    def ends_framewise(self) -> bool:
        # Every step is to be timed as the others of a video are.
        return False

    def of_frames(self, frames: slice) -> NoiseScheduler:
        return self._scheduler.of_frames(frames)

    def step(self, prediction: Tensor, step_index: int, latents: Tensor) -> StepResult:
        return self._scheduler.step(prediction, step_index, latents)

    def state(self) -> SchedulerState:
        return self._scheduler.state()

    def restore(self, state: SchedulerState) -> None:
        self._scheduler.restore(state)


class _RandomPredictions:
    """A ``Denoiser`` without a model."""

    def __init__(self, generator: torch.Generator) -> None:
        self._generator = generator

    def denoise(self, latents_BFCHW: Tensor, plan: StepPlan) -> list[tuple[Window, Tensor]]:
        _, _, *shape = latents_BFCHW.shape
        return [
            (window, torch.randn((1, len(window.frames), *shape), generator=self._generator))
            for window in plan.windows
        ]
