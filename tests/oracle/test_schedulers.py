"""Every scheduler steps as diffusers' own pipelines and loops do, bit for bit.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from glc_ray.backbones import scheduler as schedulers
from glc_ray.config import ModelSpec, SamplingSpec

SHAPE_BFCHW = (1, 5, 2, 3, 4)
WAN = diffusers.UniPCMultistepScheduler(
    prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
)

MakeModel = Callable[[Any], ModelSpec]


@pytest.fixture
def model_of(tmp_path: Path) -> MakeModel:
    """``model_of(scheduler)``: a model folder with nothing but a noise scheduler."""

    def make(scheduler: Any) -> ModelSpec:
        scheduler.save_pretrained(tmp_path / "scheduler")
        index = {"scheduler": ["diffusers", type(scheduler).__name__]}
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        return ModelSpec(path=str(tmp_path))

    return make


def sampling(name: str, num_steps: int = 5, **options: Any) -> SamplingSpec:
    return SamplingSpec(num_steps=num_steps, scheduler=name, scheduler_options=options)


def noise(count: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Stand-ins for latents and model outputs: a scheduler sees only numbers."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(SHAPE_BFCHW, generator=generator, dtype=dtype) for _ in range(count)]


def our_loop(scheduler: schedulers.DiffusersScheduler, latents: Tensor, outputs: list) -> Tensor:
    for step_index, output in enumerate(outputs):
        latents = scheduler.step(output, step_index, latents).prev_sample
    return latents


def plain_loop(scheduler: Any, latents: Tensor, outputs: list) -> Tensor:
    """As WanPipeline drives a scheduler."""
    scheduler.set_timesteps(len(outputs))
    scheduler.set_begin_index(0)
    for timestep, output in zip(scheduler.timesteps, outputs, strict=True):
        latents = scheduler.step(output, timestep, latents, return_dict=False)[0]
    return latents


@pytest.mark.parametrize("num_steps", [1, 2, 5, 30, 400])
@pytest.mark.parametrize(
    "name", ["model", "UniPCMultistepScheduler", "DPMSolverMultistepScheduler"]
)
def test_flow_solvers_equal_a_plain_loop(model_of: MakeModel, name: str, num_steps: int) -> None:
    """At 400 steps integer timesteps repeat."""
    ours = schedulers.load(model_of(WAN), sampling(name, num_steps), torch.Generator())
    its_class = type(WAN) if name == "model" else getattr(diffusers, name)
    theirs = its_class.from_config(WAN.config)
    latents, *outputs = noise(num_steps + 1)
    assert torch.equal(our_loop(ours, latents, outputs), plain_loop(theirs, latents, outputs))
    assert ours.timesteps == tuple(theirs.timesteps.tolist())
    assert all(isinstance(timestep, int) for timestep in ours.timesteps)


@pytest.mark.parametrize("num_steps", [1, 2, 5, 30, 400])
@pytest.mark.parametrize("own", [WAN, diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)])
def test_flow_euler_equals_a_plain_loop(model_of: MakeModel, own: Any, num_steps: int) -> None:
    """Wan's own scheduler calls its shift by another name; it must not be lost."""
    name = "FlowMatchEulerDiscreteScheduler"
    ours = schedulers.load(model_of(own), sampling(name, num_steps), torch.Generator())
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0)
    latents, *outputs = noise(num_steps + 1)
    assert torch.equal(our_loop(ours, latents, outputs), plain_loop(theirs, latents, outputs))
    assert ours.timesteps == tuple(theirs.timesteps.tolist())
    assert all(isinstance(timestep, float) for timestep in ours.timesteps)


@pytest.mark.parametrize("name", ["UniPCMultistepScheduler", "DPMSolverMultistepScheduler"])
def test_flow_solvers_for_a_model_with_euler(model_of: MakeModel, name: str) -> None:
    model = model_of(diffusers.FlowMatchEulerDiscreteScheduler(shift=5.0))
    ours = schedulers.load(model, sampling(name), torch.Generator())
    theirs = getattr(diffusers, name)(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    latents, *outputs = noise(6)
    assert torch.equal(our_loop(ours, latents, outputs), plain_loop(theirs, latents, outputs))


def test_an_option_takes_the_place_of_the_models(model_of: MakeModel) -> None:
    name = "FlowMatchEulerDiscreteScheduler"
    ours = schedulers.load(model_of(WAN), sampling(name, shift=2), torch.Generator())
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=2)
    theirs.set_timesteps(5)
    assert ours.timesteps == tuple(theirs.timesteps.tolist())
