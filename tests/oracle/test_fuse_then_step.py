"""Oracle 2: fusing predictions and stepping once, against stepping every clip and fusing z_{t−1}.

The same for deterministic schedulers that are linear in one step; the only right order for those
that draw noise or remember steps, since a clip is other frames at every step.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from glc_ray.backbones.scheduler import DiffusersScheduler
from glc_ray.config import GLCSpec
from glc_ray.core.fusion import Fusion
from glc_ray.methods.glc import GLC
from glc_ray.protocols import StepPlan

NUM_STEPS = 10
WINDOW_SIZE = 8
OPTIONS = GLCSpec(gamma={"gamma0": 0.3, "beta": 0.0})


def shape(num_latent_frames: int) -> tuple[int, ...]:
    return 1, num_latent_frames, 2, 3, 4


def fuse(plan: StepPlan, values: list[Tensor], num_latent_frames: int) -> Tensor:
    fusion = Fusion(plan, shape(num_latent_frames), dtype=torch.float64)
    for window, value in zip(plan.windows, values, strict=True):
        fusion.add(window, value)
    return fusion.result()


def glc(num_latent_frames: int) -> GLC:
    return GLC(
        num_latent_frames=num_latent_frames, window_size=WINDOW_SIZE, seed=3, options=OPTIONS
    )


def clips_of(plan: StepPlan, latents: Tensor) -> list[Tensor]:
    return [latents[:, list(window.frames)] for window in plan.windows]


VARIANCE_PRESERVING = {
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "timestep_spacing": "trailing",
}
LINEAR = [
    CogVideoXDDIMScheduler(**VARIANCE_PRESERVING),
    CogVideoXDDIMScheduler(prediction_type="epsilon", timestep_spacing="trailing"),
    DDIMScheduler(**VARIANCE_PRESERVING, clip_sample=False),
    FlowMatchEulerDiscreteScheduler(shift=3.0),
]


@pytest.mark.parametrize("step_index", [0, 4, 9])
@pytest.mark.parametrize("scheduler", LINEAR)
def test_fusing_first_or_last_is_the_same(scheduler: Any, step_index: int) -> None:
    num_latent_frames = 29
    ours = DiffusersScheduler(copy.deepcopy(scheduler), NUM_STEPS, torch.Generator())
    plan = glc(num_latent_frames).plan(step_index, ours.timesteps[step_index])
    generator = torch.Generator().manual_seed(0)
    # Euler rounds latents to float32 before its step: such values are left as they are.
    latents = torch.randn(shape(num_latent_frames), generator=generator).double()
    clips = clips_of(plan, latents)
    outputs = [torch.randn(clip.shape, generator=generator, dtype=torch.float64) for clip in clips]

    step_once = ours.step(fuse(plan, outputs, num_latent_frames), step_index, latents).prev_sample
    stepped_clips = [
        DiffusersScheduler(copy.deepcopy(scheduler), NUM_STEPS, torch.Generator())
        .step(output, step_index, clip)
        .prev_sample
        for output, clip in zip(outputs, clips, strict=True)
    ]
    fused = fuse(plan, stepped_clips, num_latent_frames)
    torch.testing.assert_close(step_once, fused, rtol=0, atol=1e-14)


def model_output(clip: Tensor, step_index: int) -> Tensor:
    """A stand-in for the transformer that looks at no other frame, so windows do not matter."""
    return torch.sin(3 * clip + step_index)


def fuse_then_step(scheduler: Any, latents: Tensor) -> Tensor:
    ours = DiffusersScheduler(copy.deepcopy(scheduler), NUM_STEPS, torch.Generator().manual_seed(5))
    for step_index, timestep in enumerate(ours.timesteps):
        plan = glc(latents.shape[1]).plan(step_index, timestep)
        outputs = [model_output(clip, step_index) for clip in clips_of(plan, latents)]
        prediction = fuse(plan, outputs, latents.shape[1])
        latents = ours.step(prediction, step_index, latents).prev_sample
    return latents


def step_then_fuse(scheduler: Any, latents: Tensor) -> Tensor:
    """Every clip by itself; it has no steps behind it, for the windows have moved."""
    generator = torch.Generator().manual_seed(5)
    timesteps = DiffusersScheduler(copy.deepcopy(scheduler), NUM_STEPS, generator).timesteps
    for step_index, timestep in enumerate(timesteps):
        plan = glc(latents.shape[1]).plan(step_index, timestep)
        stepped = [
            DiffusersScheduler(copy.deepcopy(scheduler), NUM_STEPS, generator)
            .step(model_output(clip, step_index), step_index, clip)
            .prev_sample
            for clip in clips_of(plan, latents)
        ]
        latents = fuse(plan, stepped, latents.shape[1])
    return latents


def as_the_pipeline(scheduler: Any, latents: Tensor) -> Tensor:
    """The loop of CogVideoXPipeline, which knows no windows."""
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(NUM_STEPS)
    generator = torch.Generator().manual_seed(5)
    old_x0 = None
    for step_index, timestep in enumerate(scheduler.timesteps):
        output = model_output(latents, step_index)
        if isinstance(scheduler, CogVideoXDPMScheduler):
            back = scheduler.timesteps[step_index - 1] if step_index > 0 else None
            latents, old_x0 = scheduler.step(
                output, old_x0, timestep, back, latents, generator=generator
            )
        else:
            latents = scheduler.step(output, timestep, latents).prev_sample
    return latents


@pytest.mark.parametrize("num_latent_frames", [WINDOW_SIZE, 29])
@pytest.mark.parametrize(
    "scheduler",
    [
        CogVideoXDPMScheduler(**VARIANCE_PRESERVING),
        DPMSolverMultistepScheduler(**VARIANCE_PRESERVING),
        UniPCMultistepScheduler(**VARIANCE_PRESERVING),
    ],
)
def test_memory_and_noise_need_one_step_for_all(scheduler: Any, num_latent_frames: int) -> None:
    latents = torch.randn(
        shape(num_latent_frames), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    expected = as_the_pipeline(scheduler, latents)
    torch.testing.assert_close(fuse_then_step(scheduler, latents), expected, rtol=0, atol=1e-5)
    assert (step_then_fuse(scheduler, latents) - expected).abs().max() > 0.05


def test_ddim_needs_no_such_care() -> None:
    """The same loops with a scheduler that neither draws nor remembers: the order is free."""
    latents = torch.randn(
        shape(WINDOW_SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    expected = as_the_pipeline(LINEAR[0], latents)
    for loop in (fuse_then_step, step_then_fuse):
        torch.testing.assert_close(loop(LINEAR[0], latents), expected, rtol=0, atol=1e-9)
