"""Fusing predictions and stepping once equals stepping every clip and fusing z_{t−1}."""

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler

from glc_ray.config import GLCSpec
from glc_ray.core.fusion import Fusion
from glc_ray.methods.glc import GLC

SHAPE = (1, 29, 2, 3, 4)


def fuse(plan, values):
    fusion = Fusion(plan, SHAPE, dtype=torch.float64)
    for window, value in zip(plan.windows, values, strict=True):
        fusion.add(window, value)
    return fusion.result()


@pytest.mark.parametrize("step_index", [0, 4, 9])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "epsilon"])
def test_ddim_in_float64(step_index, prediction_type):
    scheduler = CogVideoXDDIMScheduler(
        prediction_type=prediction_type,
        rescale_betas_zero_snr=prediction_type == "v_prediction",
        timestep_spacing="trailing",
    )
    scheduler.set_timesteps(10)
    timestep = int(scheduler.timesteps[step_index])
    method = GLC(
        num_latent_frames=SHAPE[1],
        window_size=8,
        seed=3,
        options=GLCSpec(gamma={"gamma0": 0.3, "beta": 0.0}),
    )
    plan = method.plan(step_index, timestep)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
    clips = [latents[:, list(window.frames)] for window in plan.windows]
    outputs = [torch.randn(clip.shape, generator=generator, dtype=torch.float64) for clip in clips]

    step_once = scheduler.step(fuse(plan, outputs), timestep, latents).prev_sample
    stepped_clips = [
        scheduler.step(output, timestep, clip).prev_sample
        for output, clip in zip(outputs, clips, strict=True)
    ]
    torch.testing.assert_close(step_once, fuse(plan, stepped_clips), rtol=0, atol=1e-14)
