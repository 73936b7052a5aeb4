"""What a person should know about how a job will be done, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from glc_ray.backbones.registry import load_scheduler
from glc_ray.config import VideoJob
from glc_ray.estimate.work import Step
from glc_ray.job import decode_plan
from glc_ray.protocols import (
    AnchorAttention,
    ModelFacts,
    SpectralAttention,
    WindowedAttention,
)


def notes_on(job: VideoJob, facts: ModelFacts, steps: tuple[Step, ...]) -> tuple[str, ...]:
    """What the figures do not say by themselves."""
    return (*_method(job, facts, steps), *_anchor(steps), *_optimize(job), *_decode(job, steps))


def _method(job: VideoJob, facts: ModelFacts, steps: tuple[Step, ...]) -> Iterator[str]:
    path = steps[0].plan.paths[0]
    if job.pipeline.method == "freenoise":
        level = job.pipeline.freenoise.level
        if isinstance(path.attention, WindowedAttention):
            yield f"freenoise.level = {level}: windows are averaged within attention"
        elif level == "auto":
            yield (
                "freenoise.level = auto: windows are averaged in the prediction, since the model "
                "cannot place windows within attention over a video this long"
            )
        else:
            yield f"freenoise.level = {level}: windows are averaged in the prediction"
    if isinstance(path.attention, SpectralAttention):
        yield (
            "freelong: attention of every layer is computed globally and locally "
            f"(radius {path.attention.radius}); its Fourier transforms are not among the operations"
        )
    longest = max(len(path.windows[0].frames) for path in steps[0].plan.paths)
    if longest > facts.window_size:
        yield (
            f"one forward spans {longest} latent frames, {longest / facts.window_size:.1f} times "
            "the native window: it runs on one worker, and others do not shorten a step"
        )


def _anchor(steps: tuple[Step, ...]) -> Iterator[str]:
    modes = [path.attention for path in steps[0].plan.paths]
    anchored = [mode for mode in modes if isinstance(mode, AnchorAttention)]
    if anchored and not any(mode.has_share for mode in anchored):
        yield "glc.abam: the anchor has no share, so no keys and values are kept"
    elif anchored and anchored[0].cache == "recompute":
        yield "glc.abam.cache = recompute: the anchor is one more clip in every batch but its own"


def _decode(job: VideoJob, steps: tuple[Step, ...]) -> Iterator[str]:
    pipeline = job.pipeline
    if pipeline.resources.decoders.count > 1:
        yield f"decode: {decode_plan(pipeline).why}"
    scheduler = load_scheduler(pipeline.model, pipeline.sampling, torch.Generator())
    last = steps[-1].plan.paths[-1]
    if not scheduler.ends_framewise:
        yield "decode: begins after the last step, which ends at latents that hold noise"
    elif last.name == "local" and len(last.windows) > 1:
        yield "decode: begins in the last step, with the first frames that are final"
    else:
        yield "decode: begins after the last step, in which all frames are final at once"


def _optimize(job: VideoJob) -> Iterator[str]:
    optimize = job.pipeline.optimize
    if optimize.layerwise_casting != "off":
        yield (
            f"optimize.layerwise_casting = {optimize.layerwise_casting}: weights of linear layers "
            "and convolutions are kept in 8 bits, as diffusers chooses them, and cast to "
            f"{job.pipeline.model.dtype} one layer at a time"
        )
    if optimize.group_offload != "off":
        yield (
            f"optimize.group_offload = {optimize.group_offload}: weights are in main memory; about "
            "two groups of them are on the device, one that computes and the next"
        )
