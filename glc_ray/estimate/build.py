"""The estimate of a job, put together."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import get_args

from glc_ray.backbones import registry as backbones
from glc_ray.backbones.cost import ModelCost, scheduler_history
from glc_ray.config import ABAMSpec, VideoJob
from glc_ray.estimate.clocks import StatedClock
from glc_ray.estimate.figures import (
    AnchorCacheFigures,
    Estimate,
    ForwardFigures,
    MemoryFigures,
    PathFigures,
    PerStep,
    TimingFigures,
    VideoFigures,
    WorkerFigures,
)
from glc_ray.estimate.measure import Measurement
from glc_ray.estimate.notes import notes_on
from glc_ray.estimate.work import (
    Clock,
    Step,
    alike,
    keeps_anchors,
    per_step,
    steps_of,
    tasks_of,
    traffic,
)
from glc_ray.job import video_name
from glc_ray.protocols import AnchorAttention, Forward, ModelFacts
from glc_ray.runtime.simulate import simulate

_WORKERS = (1, 2, 4, 8)
_PLACEMENTS = get_args(ABAMSpec.model_fields["cache"].annotation)


def estimate(
    job: VideoJob,
    *,
    steps: tuple[Step, ...] | None = None,
    seconds_per_window: float | None = None,
    measurement: Measurement | None = None,
) -> Estimate:
    """What ``job`` will take; reads the model's configuration files, and no weights.

    Args:
        job: a job that can run.
        steps: of the job, where they are known.
        seconds_per_window: of a guided forward of one native window, stated.
        measurement: of the job's batches, in place of it.
    """
    facts = backbones.facts(job.pipeline.model)
    steps = steps_of(job, facts) if steps is None else steps
    cost = ModelCost(job.pipeline)
    timing = _timing(steps, seconds_per_window, measurement)
    # Without seconds the simulation still counts anchors, in units of a window.
    clock: Clock = (
        measurement.clock
        if measurement is not None
        else StatedClock(seconds_per_window or 1.0, cost, facts.window_size)
    )
    return Estimate(
        video=_video(job, facts, steps),
        forwards=_forwards(steps, cost),
        memory=_memory(job, facts, steps, cost),
        traffic=traffic(steps, facts.latents_shape(job.pipeline.video.num_frames)),
        timing=timing,
        workers=_workers(job, steps, cost, clock, timing),
        notes=notes_on(job, facts, steps),
    )


def _video(job: VideoJob, facts: ModelFacts, steps: tuple[Step, ...]) -> VideoFigures:
    pipeline = job.pipeline
    return VideoFigures(
        name=video_name(job),
        specification_hash=job.specification_hash,
        pipeline=pipeline.name,
        method=pipeline.method,
        prompt=job.prompt,
        seed=job.seed,
        num_frames=pipeline.video.num_frames,
        num_latent_frames=facts.num_latent_frames(pipeline.video.num_frames),
        height=facts.height,
        width=facts.width,
        window_size=facts.window_size,
        num_steps=len(steps),
    )


def _forwards(steps: tuple[Step, ...], cost: ModelCost) -> ForwardFigures:
    flops = sum(
        times * cost.flops(forward) for step, times in alike(steps) for forward in step.forwards
    )
    return ForwardFigures(
        paths=tuple(_path(name, steps, cost) for name in _path_names(steps)),
        windows=per_step(steps, lambda step: len(step.plan.windows)),
        batches=per_step(steps, lambda step: len(step.forwards)),
        guidance_branches=1 if steps[0].forwards[0].guidance_scale is None else 2,
        flops=flops,
    )


def _path_names(steps: tuple[Step, ...]) -> Iterable[str]:
    """Of all steps, since a path without a share in a step is left out of it."""
    return dict.fromkeys(path.name for step in steps for path in step.plan.paths)


def _path(name: str, steps: tuple[Step, ...], cost: ModelCost) -> PathFigures:
    def of_path(step: Step) -> list[Forward]:
        return [forward for forward in step.forwards if forward.path == name]

    first = next(forward for step, _ in alike(steps) for forward in of_path(step))
    return PathFigures(
        path=name,
        clip_frames=len(first.windows[0].frames),
        windows=per_step(steps, lambda step: sum(len(f.windows) for f in of_path(step))),
        batches=per_step(steps, lambda step: len(of_path(step))),
        flops_per_window=cost.flops(first) // len(first.windows),
    )


def _memory(
    job: VideoJob, facts: ModelFacts, steps: tuple[Step, ...], cost: ModelCost
) -> MemoryFigures:
    pipeline = job.pipeline
    latents_bytes = math.prod(facts.latents_shape(pipeline.video.num_frames)) * 4
    forwards = [forward for step, _ in alike(steps) for forward in step.forwards]
    kinds = {(len(f.windows), len(f.windows[0].frames), f.is_anchor): f for f in forwards}
    activations_bytes = max(map(cost.activation_bytes, kinds.values()))
    caches = _anchor_caches(forwards, cost)
    weights, at_once = cost.weights_bytes, cost.weights_at_once_bytes
    anchors = sum(cache.device_bytes for cache in caches if cache.is_chosen)
    # Groups that are offloaded are back in main memory between forwards.
    at_rest = weights if at_once == weights else 0
    return MemoryFigures(
        weights_bytes=weights,
        weights_at_once_bytes=at_once,
        text_encoder_bytes=cost.text_encoder_bytes,
        activations_bytes=activations_bytes,
        anchor_caches=caches,
        denoising_device_bytes=at_once + activations_bytes + anchors,
        encoding_device_bytes=at_rest + cost.text_encoder_bytes,
        vae_bytes=cost.vae_bytes,
        latents_bytes=latents_bytes,
        checkpoint_bytes=latents_bytes * (1 + scheduler_history(pipeline.model, pipeline.sampling)),
    )


def _anchor_caches(forwards: list[Forward], cost: ModelCost) -> tuple[AnchorCacheFigures, ...]:
    blended = next((forward for forward in forwards if forward.anchor is not None), None)
    if blended is None:
        return ()
    assert isinstance(blended.attention, AnchorAttention)
    size = cost.anchor_cache_bytes(blended)
    return tuple(
        AnchorCacheFigures(
            placement=placement,
            is_chosen=placement == blended.attention.cache,
            device_bytes=size if placement == "device" else 0,
            cpu_bytes=size if placement == "cpu" else 0,
        )
        for placement in _PLACEMENTS
    )


def _timing(
    steps: tuple[Step, ...], seconds_per_window: float | None, measurement: Measurement | None
) -> TimingFigures | None:
    if measurement is not None:
        return TimingFigures(
            source="measured",
            seconds_per_window=measurement.clock.mean_window_s(steps),
            batches=measurement.batches,
            coordinator_step_s=measurement.coordinator_step_s,
        )
    if seconds_per_window is not None:
        return TimingFigures(source="stated", seconds_per_window=seconds_per_window)
    return None


def _workers(
    job: VideoJob,
    steps: tuple[Step, ...],
    cost: ModelCost,
    clock: Clock,
    timing: TimingFigures | None,
) -> tuple[WorkerFigures, ...]:
    chosen = job.pipeline.resources.denoisers.count
    tasks = [(tasks_of(step, clock), times) for step, times in alike(steps)]
    keeps = keeps_anchors(steps)
    first = steps[0].forwards[0]
    anchor_flops = cost.flops(first) // len(first.windows)
    coordinator_s = None
    if timing is not None and timing.coordinator_step_s is not None:
        coordinator_s = timing.coordinator_step_s * len(steps)
    figures: list[WorkerFigures] = []
    for workers in sorted({*_WORKERS, chosen}):
        runs = [(simulate(step, workers, keeps_anchors=keeps), times) for step, times in tasks]
        makespan_s = sum(times * run.makespan_s for run, times in runs)
        anchors = PerStep.of([run.anchor_forwards for run, times in runs for _ in range(times)])
        busy_s = sum(times * run.busy_share * run.makespan_s for run, times in runs)
        total_s = None if timing is None else makespan_s + (coordinator_s or 0.0)
        # The first row is that of one worker.
        alone_s = figures[0].total_s if figures else total_s
        figures.append(
            WorkerFigures(
                workers=workers,
                is_chosen=workers == chosen,
                anchor_forwards=anchors,
                anchor_flops=anchors.total * anchor_flops,
                total_s=total_s,
                speed_up=None if total_s is None or alone_s is None else alone_s / total_s,
                denoise_s=None if timing is None else makespan_s,
                coordinator_s=coordinator_s,
                busy_share=busy_s / makespan_s,
            )
        )
    return tuple(figures)
