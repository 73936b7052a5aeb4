"""The denoising loop, once: plan -> denoise -> fuse -> step -> update, given any Denoiser.

With ``LocalDenoiser`` it runs in this process and is the oracle of every distributed run.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from glc_ray.backbones import registry as backbones
from glc_ray.config import VideoJob
from glc_ray.core.bands import Band, bands, whole
from glc_ray.core.fusion import Fusion
from glc_ray.core.noise import SeededNoise
from glc_ray.forwards import ForwardPlanner
from glc_ray.methods import registry as methods
from glc_ray.protocols import (
    Backbone,
    Conditioning,
    Denoiser,
    Method,
    NoiseScheduler,
    SchedulerState,
    StepPlan,
    StepResult,
    Window,
)


@dataclass(frozen=True)
class StepReport:
    """What one finished step took."""

    step_index: int
    num_steps: int
    timestep: float
    num_windows: int
    denoise_s: float
    """Waiting for predictions."""
    fuse_s: float
    """Fusion and the scheduler's step."""
    update_s: float
    """The method's update (VMCR)."""


OnStep = Callable[[StepReport, Tensor], None]
OnFinal = Callable[[int, Tensor], None]
"""Called with a latent frame of the video and the final latents from there on."""
OnUpdate = Callable[[StepResult, Tensor], None]
"""Called with a step's result and what the method made of it; it changes neither."""


@dataclass(frozen=True)
class Boundary:
    """Everything that sampling needs to go on between two steps."""

    step_index: int
    """The step that comes next."""
    latents_BFCHW: Tensor
    """What it starts from, (1, K, C, H, W) float32."""
    scheduler: SchedulerState
    """Of the noise scheduler, its generator's state among it."""


OnBoundary = Callable[[Boundary], None]


@torch.no_grad()
def sample(
    latents_BFCHW: Tensor,
    *,
    method: Method,
    scheduler: NoiseScheduler,
    denoiser: Denoiser,
    start_step: int = 0,
    on_step: OnStep | None = None,
    on_final: OnFinal | None = None,
    on_update: OnUpdate | None = None,
) -> Tensor:
    """Denoise the latents of one long video (Algorithm 1).

    The last step goes band by band, as predictions are final, where the scheduler allows it: its
    result, and whatever comes after it, can then begin early.

    Args:
        latents_BFCHW: z at the noise level of ``start_step``, float32, (1, K, C, H, W).
        method: gives each step's windows and its update.
        scheduler: steps once on the full latents (decided: also right for multistep and
            stochastic schedulers).
        denoiser: gives the guided prediction of every window, in window order.
        start_step: position in ``scheduler.timesteps`` to begin at.
        on_step: called after each step with its report and the new latents.
        on_final: called in the last step with each band of final latents, from left to right.
        on_update: called after each update by the method of all frames at once, for whoever
            measures it.

    Returns:
        The clean latents, float32, (1, K, C, H, W).

    Raises:
        FloatingPointError: a step's fused prediction is not finite.
    """
    num_steps, length = len(scheduler.timesteps), latents_BFCHW.shape[1]
    for step_index in range(start_step, num_steps):
        plan = method.plan(step_index, scheduler.timesteps[step_index])
        is_last = step_index + 1 == num_steps
        by_bands = is_last and scheduler.ends_framewise
        parts = bands(length, method.reach) if by_bands else (whole(length),)
        clock = _Clock()
        done: list[Tensor] = []
        for band, prediction in _fused(denoiser, latents_BFCHW, plan, parts, clock):
            steps_it = scheduler if band.is_whole else scheduler.of_frames(band.needs)
            result = steps_it.step(prediction, step_index, latents_BFCHW[:, band.needs])
            clock.lap("fuse")
            refined_BFCHW = method.update(result, band.needs.start)
            done.append(refined_BFCHW[:, band.own])
            clock.lap("update")
            if on_update is not None and band.is_whole:
                on_update(result, refined_BFCHW)
            if is_last and on_final is not None:
                on_final(band.frames.start, done[-1])
        latents_BFCHW = done[0] if len(done) == 1 else torch.cat(done, dim=1)
        if on_step is not None:
            on_step(clock.report(plan, num_steps), latents_BFCHW)
    return latents_BFCHW


def _fused(
    denoiser: Denoiser, latents_BFCHW: Tensor, plan: StepPlan, parts: Sequence[Band], clock: _Clock
) -> Iterator[tuple[Band, Tensor]]:
    """Yield (band, fused prediction of what it needs), each as soon as that is final.

    Raises:
        FloatingPointError: a prediction is not finite.
    """
    fusion = Fusion(plan, latents_BFCHW.shape, device=latents_BFCHW.device)
    waiting = deque(parts)
    for window, window_prediction in denoiser.denoise(latents_BFCHW, plan):
        clock.lap("denoise")
        fusion.add(window, window_prediction)
        while waiting and waiting[0].needs.stop <= fusion.num_final:
            band = waiting.popleft()
            prediction = fusion.result(band.needs)
            if not torch.isfinite(prediction).all():
                raise FloatingPointError(
                    f"step {plan.step_index} (timestep {plan.timestep}): the model's prediction "
                    "has NaN or infinite values; try --set model.dtype=float32"
                )
            yield band, prediction
        clock.lap("fuse")
    clock.lap("denoise")
    assert not waiting, "predictions of windows are missing"


def sample_job(
    job: VideoJob,
    denoiser: Denoiser,
    *,
    start: Boundary | None = None,
    on_step: OnStep | None = None,
    on_boundary: OnBoundary | None = None,
    on_final: OnFinal | None = None,
    on_update: OnUpdate | None = None,
) -> Tensor:
    """Render the latents of a job, (1, K, C, H, W) float32.

    Args:
        job: what to render.
        denoiser: gives the predictions of its windows.
        start: where to go on, to the same bits; None begins with the seed's noise.
        on_step: called after each step with its report and the new latents.
        on_boundary: called after each step but the last with what the next needs. It holds
            references, not copies: nothing of it is changed later.
        on_final: as of ``sample``.
        on_update: as of ``sample``.
    """
    pipeline = job.pipeline
    facts = backbones.facts(pipeline.model)
    method = methods.create(job, facts)
    # One source for the first noise and for a stochastic scheduler's, as in diffusers' pipelines.
    noise = SeededNoise(job.seed, channels_first=facts.channels_first_noise)
    scheduler = backbones.load_scheduler(pipeline.model, pipeline.sampling, noise.generator)
    if start is None:
        shape = facts.latents_shape(pipeline.video.num_frames)
        latents_BFCHW = method.initial_noise(shape, noise)
    else:
        latents_BFCHW = start.latents_BFCHW
        scheduler.restore(start.scheduler)

    def after_step(report: StepReport, latents: Tensor) -> None:
        if on_step is not None:
            on_step(report, latents)
        if on_boundary is not None and report.step_index + 1 < report.num_steps:
            on_boundary(Boundary(report.step_index + 1, latents, scheduler.state()))

    return sample(
        latents_BFCHW,
        method=method,
        scheduler=scheduler,
        denoiser=denoiser,
        start_step=0 if start is None else start.step_index,
        on_step=after_step,
        on_final=on_final,
        on_update=on_update,
    )


def check_start(job: VideoJob, start: Boundary) -> None:
    """Find out whether ``sample_job`` can go on from there.

    Raises:
        ValueError: it is of another scheduler, or of other settings of it.
        LookupError, TypeError, AttributeError: parts of its state are missing, or others.
    """
    pipeline = job.pipeline
    scheduler = backbones.load_scheduler(pipeline.model, pipeline.sampling, torch.Generator())
    scheduler.restore(start.scheduler)


def gather_clips(latents_BFCHW: Tensor, windows: Sequence[Window]) -> Tensor:
    """The clips of some windows of one video, (N, L, C, H, W)."""
    return torch.cat([latents_BFCHW[:, list(window.frames)] for window in windows])


class LocalDenoiser:
    """Denoises in this process, in the same batches and on as many threads as an actor would."""

    def __init__(
        self,
        backbone: Backbone,
        conditioning: Conditioning,
        planner: ForwardPlanner,
        *,
        threads: int,
    ) -> None:
        self.backbone = backbone
        self.conditioning = conditioning
        self.planner = planner
        self.threads = threads

    @classmethod
    def of(cls, job: VideoJob, device: torch.device) -> LocalDenoiser:
        """Load a job's model and encode its prompts."""
        pipeline = job.pipeline
        backbone = backbones.load_backbone(pipeline, device)
        with torch_threads(pipeline.denoise.threads):
            conditioning = backbone.encode_prompts(
                tuple(prompt.text for prompt in job.timeline), pipeline.sampling.negative_prompt
            )
        planner = ForwardPlanner(job, backbone.facts)
        return cls(backbone, conditioning, planner, threads=pipeline.denoise.threads)

    def denoise(self, latents_BFCHW: Tensor, plan: StepPlan) -> Iterator[tuple[Window, Tensor]]:
        """Yield (window, prediction (1, L, C, H, W)) in window order."""
        for forward in self.planner.forwards(plan):
            clips = gather_clips(latents_BFCHW, forward.windows)
            anchor = None
            if forward.anchor is not None and not forward.is_anchor:
                anchor = gather_clips(latents_BFCHW, [forward.anchor])
            with torch_threads(self.threads):
                predictions = self.backbone.predict(clips, forward, self.conditioning, anchor)
            predictions = predictions.to(latents_BFCHW.device)
            yield from zip(forward.windows, predictions.split(1), strict=True)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Fix the number of CPU threads, since it changes the last bits of a matrix product."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Clock:
    """Splits a step's time by what it was spent on."""

    def __init__(self) -> None:
        self.seconds = {"denoise": 0.0, "fuse": 0.0, "update": 0.0}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] += now - self._last
        self._last = now

    def report(self, plan: StepPlan, num_steps: int) -> StepReport:
        return StepReport(
            step_index=plan.step_index,
            num_steps=num_steps,
            timestep=plan.timestep,
            num_windows=len(plan.windows),
            denoise_s=self.seconds["denoise"],
            fuse_s=self.seconds["fuse"],
            update_s=self.seconds["update"],
        )
