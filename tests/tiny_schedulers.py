"""Noise schedulers as models have them, and numbers for them to step on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor

from glc_ray.config import ModelSpec, SamplingSpec

SHAPE_BFCHW = (1, 5, 2, 3, 4)
WAN = diffusers.UniPCMultistepScheduler(
    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
)

MakeModel = Callable[[Any], ModelSpec]


def sampling(name: str, num_steps: int = 5, **options: Any) -> SamplingSpec:
    return SamplingSpec(num_steps=num_steps, scheduler=name, scheduler_options=options)


def noise(count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Stand-ins for latents and model outputs: a scheduler sees only numbers."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE_BFCHW, generator=generator, dtype=dtype) for _ in range(count)]


def cogvideox(snr_shift_scale: float = 1.0) -> diffusers.CogVideoXDDIMScheduler:
    """As in the files of CogVideoX-5b; 2b has a shift of 3."""
    return diffusers.CogVideoXDDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        snr_shift_scale=snr_shift_scale,
    )


VARIANCE_PRESERVING = [
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
]
FLOW = [
    "DPMSolverMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "UniPCMultistepScheduler",
]
EVERY = [(cogvideox(), name) for name in VARIANCE_PRESERVING] + [(WAN, name) for name in FLOW]
