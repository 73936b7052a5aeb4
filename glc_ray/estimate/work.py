"""What the steps of a job consist of: their forwards, as tasks, and the bytes that they move."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from glc_ray.backbones import registry as backbones
from glc_ray.config import VideoJob
from glc_ray.estimate.figures import PerStep, TrafficFigures
from glc_ray.forwards import ForwardPlanner
from glc_ray.methods import registry as methods
from glc_ray.protocols import AnchorAttention, Forward, ModelFacts, StepPlan
from glc_ray.runtime.simulate import Task

_FLOAT32_BYTES = 4


@dataclass(frozen=True)
class Step:
    """One step of the loop."""

    plan: StepPlan
    planner: ForwardPlanner

    @cached_property
    def forwards(self) -> tuple[Forward, ...]:
        """In window order; made when first asked for, as a long video has thousands a step."""
        return self.planner.forwards(self.plan)


class Clock(Protocol):
    """Seconds of forwards, on whatever device they run."""

    def window_s(self, forward: Forward) -> float:
        """Of a forward's own clips."""
        ...

    def anchor_s(self, forward: Forward) -> float:
        """Of the forward of its anchor alone."""
        ...


def steps_of(job: VideoJob, facts: ModelFacts) -> tuple[Step, ...]:
    """Every step of a job, as the coordinator will plan it."""
    pipeline = job.pipeline
    method = methods.create(job, facts)
    scheduler = backbones.load_scheduler(pipeline.model, pipeline.sampling, torch.Generator())
    planner = ForwardPlanner(job, facts)
    plans = [method.plan(index, timestep) for index, timestep in enumerate(scheduler.timesteps)]
    return tuple(Step(plan, planner) for plan in plans)


def alike(steps: Iterable[Step]) -> list[tuple[Step, int]]:
    """One step of each kind, and how many there are of it.

    Steps of a kind have the same forwards but for the frames that their windows see, and so the
    same operations, bytes and tasks; hundreds of steps of a long video have a handful of kinds.
    """
    kinds: dict[tuple[object, ...], tuple[Step, int]] = {}
    for step in steps:
        kind = tuple(
            (path.name, len(path.windows), len(path.windows[0].frames), path.attention)
            for path in step.plan.paths
        )
        first, times = kinds.get(kind, (step, 0))
        kinds[kind] = first, times + 1
    return list(kinds.values())


def keeps_anchors(steps: Iterable[Step]) -> bool:
    """Whether workers keep anchors from batch to batch."""
    return not any(
        isinstance(path.attention, AnchorAttention) and path.attention.cache == "recompute"
        for step in steps
        for path in step.plan.paths
    )


def tasks_of(step: Step, clock: Clock) -> list[Task]:
    """The step's forwards as the simulation of dispatch wants them."""
    return [_task(forward, clock) for forward in step.forwards]


def _task(forward: Forward, clock: Clock) -> Task:
    anchor = None if forward.anchor is None else forward.path
    needs_anchor = anchor is not None and not forward.is_anchor
    return Task(
        seconds=clock.window_s(forward),
        group=anchor,
        anchor=anchor,
        anchor_s=clock.anchor_s(forward) if needs_anchor else 0.0,
        is_anchor=forward.is_anchor,
    )


def per_step(steps: Iterable[Step], count: Callable[[Step], int]) -> PerStep:
    """What ``count`` says of each step, where it says the same of steps that are `alike`."""
    return PerStep.of([found for step, times in alike(steps) for found in [count(step)] * times])


def traffic(steps: tuple[Step, ...], latents_shape: tuple[int, ...]) -> TrafficFigures:
    """Bytes of the arrays that batches, answers and anchors bring from process to process.

    Args:
        steps: of the job.
        latents_shape: (1, K, C, H, W) of the video.
    """
    frame_bytes = math.prod(latents_shape[2:]) * _FLOAT32_BYTES
    clips_bytes = per_step(
        steps, lambda step: sum(len(window.frames) for window in step.plan.windows) * frame_bytes
    )
    return TrafficFigures(
        clips_bytes=clips_bytes,
        # A prediction has the shape of its clip.
        predictions_bytes=clips_bytes,
        anchors_bytes=per_step(steps, lambda step: _anchor_frames(step) * frame_bytes),
    )


def _anchor_frames(step: Step) -> int:
    """Latent frames of the anchors that are shared: once for a path that has other windows."""
    lengths = {
        forward.path: len(forward.anchor.frames)
        for forward in step.forwards
        if forward.anchor is not None and not forward.is_anchor
    }
    return sum(lengths.values())
