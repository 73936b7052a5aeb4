"""Oracle 1: at native length with GLC's features off, diffusers' own pipeline gives the latents."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXPipeline

from glc_ray.backbones import registry
from glc_ray.config import ModelSpec, SamplingSpec, VideoJob
from glc_ray.pipeline_file import load_pipeline
from glc_ray.sampler import LocalDenoiser, sample_job

PROMPT = "a red ball bounces over the meadow at day"
OFF = [("glc.global_path", False), ("glc.noise_reinit", False), ("glc.vmcr", False)]


def native_latents(model: str, seed: int, steps: int, guidance_scale: float) -> torch.Tensor:
    """Our loop on one native window."""
    spec = load_pipeline("toyworld", [("model.path", model), *OFF])
    facts = registry.facts(spec.model)
    spec = load_pipeline(
        "toyworld",
        [
            ("model.path", model),
            ("video.num_frames", facts.num_frames(facts.window_size)),
            ("sampling.num_steps", steps),
            ("sampling.guidance_scale", guidance_scale),
            ("denoise.threads", torch.get_num_threads()),
            *OFF,
        ],
    )
    job = VideoJob(prompt=PROMPT, seed=seed, pipeline=spec)
    return sample_job(job, LocalDenoiser.of(job, torch.device("cpu")))


def pipeline_latents(folder: Path, seed: int, steps: int, guidance_scale: float) -> torch.Tensor:
    pipeline = CogVideoXPipeline.from_pretrained(folder).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.transformer.config
    return pipeline(
        PROMPT,
        num_frames=config.sample_frames,
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        max_sequence_length=config.max_text_seq_length,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).frames


def test_embedded_model_equals_diffusers_pipeline() -> None:
    from tests.conftest import TOYWORLD

    ours = native_latents("package:toyworld", seed=3, steps=3, guidance_scale=5.0)
    assert torch.equal(ours, pipeline_latents(TOYWORLD, seed=3, steps=3, guidance_scale=5.0))


def test_every_number_of_steps_gives_that_many_timesteps(
    tiny_model: Callable[[str], Path],
) -> None:
    """Rounding gives diffusers' scheduler one more, at timestep -1, for 61 and others."""
    model = ModelSpec(path=str(tiny_model("sincos")))
    for num_steps in range(1, 1001):
        sampling = SamplingSpec(num_steps=num_steps)
        timesteps = registry.load_scheduler(model, sampling, torch.Generator()).timesteps
        assert len(timesteps) == num_steps
        assert min(timesteps) >= 0


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_any_folder_equals_diffusers_pipeline(
    tiny_model: Callable[[str], Path], positions: str, guidance_scale: float, steps: int
) -> None:
    folder = tiny_model(positions)
    ours = native_latents(str(folder), seed=7, steps=steps, guidance_scale=guidance_scale)
    assert torch.equal(ours, pipeline_latents(folder, 7, steps, guidance_scale))
