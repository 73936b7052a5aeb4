"""Oracle 8: within real models, FreeLong and FreeNoise meet diffusers' own attention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any

import pytest
import torch
from diffusers import CogVideoXPipeline
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from glc_ray.backbones.attention import SpectralMode, WindowedMode
from glc_ray.config import VideoJob
from glc_ray.core.attention import SelfAttention, spectral_attention, windowed_attention
from glc_ray.core.spectral import gaussian_low_pass
from glc_ray.core.windows import global_windows
from glc_ray.methods import registry as methods
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import Attention, Path, SpectralAttention, StepPlan, WindowedAttention
from glc_ray.sampler import LocalDenoiser, sample_job

POSITIONS = pytest.mark.parametrize("positions", ["sincos", "rotary"])
GUIDANCE = pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
PROMPT = "a red ball bounces over the meadow at day"


def job_of(folder: FilePath, num_frames: int, *overrides: tuple[str, Any]) -> VideoJob:
    spec = load_pipeline(
        "toyworld",
        [
            ("model.path", str(folder)),
            ("video.num_frames", num_frames),
            ("sampling.num_steps", 3),
            ("denoise.threads", torch.get_num_threads()),
            *overrides,
        ],
    )
    return VideoJob(prompt=PROMPT, seed=7, pipeline=spec)


def denoiser_of(job: VideoJob) -> LocalDenoiser:
    return LocalDenoiser.of(job, torch.device("cpu"))


def latents_of(denoiser: LocalDenoiser, num_frames: int) -> Tensor:
    shape = denoiser.planner.facts.latents_shape(num_frames)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def predict(denoiser: LocalDenoiser, latents: Tensor, attention: Attention | None) -> Tensor:
    """One forward over all of the latents."""
    length = latents.shape[1]
    path = Path("global", 1.0, global_windows(length, length), attention)
    ((_, prediction),) = denoiser.denoise(latents, StepPlan(0, 500, (path,)))
    return prediction


def pipeline_latents(job: VideoJob) -> Tensor:
    pipeline = CogVideoXPipeline.from_pretrained(job.pipeline.model.path).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        PROMPT,
        num_frames=job.pipeline.video.num_frames,
        num_inference_steps=job.pipeline.sampling.num_steps,
        guidance_scale=job.pipeline.sampling.guidance_scale,
        max_sequence_length=pipeline.transformer.config.max_text_seq_length,
        generator=torch.Generator().manual_seed(job.seed),
        output_type="latent",
    ).frames


@POSITIONS
@GUIDANCE
@pytest.mark.parametrize("num_frames", [9, 33])
def test_direct_equals_diffusers_pipeline_at_any_length(
    tiny_model: Callable[[str], FilePath], positions: str, guidance_scale: float, num_frames: int
) -> None:
    """3 and 9 latent frames of a model whose window is 3."""
    guidance = ("sampling.guidance_scale", guidance_scale)
    job = job_of(tiny_model(positions), num_frames, ("method", "direct"), guidance)
    assert torch.equal(sample_job(job, denoiser_of(job)), pipeline_latents(job))


@pytest.mark.parametrize("num_frames", [9, 33])
def test_whatever_blends_nothing_in_equals_diffusers_pipeline(
    tiny_model: Callable[[str], FilePath], num_frames: int
) -> None:
    """FreeLong whose low-pass lets everything pass."""
    options = [("method", "freelong"), ("freelong.cutoff", 1e9), ("freelong.radius", 1)]
    job = job_of(tiny_model("rotary"), num_frames, *options)
    assert torch.equal(sample_job(job, denoiser_of(job)), pipeline_latents(job))


def test_freenoise_within_attention_at_native_length_equals_diffusers_pipeline(
    tiny_model: Callable[[str], FilePath],
) -> None:
    job = job_of(tiny_model("rotary"), 9, ("method", "freenoise"))
    denoiser = denoiser_of(job)
    assert methods.create(job, denoiser.planner.facts).requires == {
        "long_clips",
        "windowed_attention",
    }
    assert torch.equal(sample_job(job, denoiser), pipeline_latents(job))


@POSITIONS
@GUIDANCE
def test_freelong_is_the_models_own_attention_at_its_two_limits(
    tiny_model: Callable[[str], FilePath], positions: str, guidance_scale: float
) -> None:
    guidance = ("sampling.guidance_scale", guidance_scale)
    denoiser = denoiser_of(job_of(tiny_model(positions), 33, guidance))
    latents = latents_of(denoiser, 33)
    stock = predict(denoiser, latents, None)
    assert latents.shape[1] == 9
    for radius in (8, 100):
        everywhere = predict(denoiser, latents, SpectralAttention(radius, 0.25))
        torch.testing.assert_close(everywhere, stock, rtol=0, atol=5e-6)
    unfiltered = predict(denoiser, latents, SpectralAttention(1, 1e9))
    assert torch.equal(unfiltered, stock)
    blended = predict(denoiser, latents, SpectralAttention(1, 0.25))
    assert not torch.allclose(blended, stock, rtol=0, atol=1e-3)


@POSITIONS
@GUIDANCE
def test_windowed_attention_over_the_whole_clip_is_the_models_own(
    tiny_model: Callable[[str], FilePath], positions: str, guidance_scale: float
) -> None:
    guidance = ("sampling.guidance_scale", guidance_scale)
    denoiser = denoiser_of(job_of(tiny_model(positions), 33, guidance))
    latents = latents_of(denoiser, 33)
    stock = predict(denoiser, latents, None)
    assert torch.equal(predict(denoiser, latents, WindowedAttention(9, 4)), stock)
    blended = predict(denoiser, latents, WindowedAttention(3, 1))
    assert not torch.allclose(blended, stock, rtol=0, atol=1e-3)


@GUIDANCE
def test_windows_side_by_side_in_one_layer_are_clips_of_their_own(
    tiny_model: Callable[[str], FilePath], guidance_scale: float
) -> None:
    """So positions within attention start at 0 in each window. (In a second layer the text, which
    is averaged over windows, would differ.)"""
    guidance = ("sampling.guidance_scale", guidance_scale)
    denoiser = denoiser_of(job_of(tiny_model("rotary"), 33, guidance))
    backbone: Any = denoiser.backbone
    backbone.transformer.transformer_blocks = backbone.transformer.transformer_blocks[:1]
    latents = latents_of(denoiser, 33)
    together = predict(denoiser, latents, WindowedAttention(3, 3))
    alone = [predict(denoiser, clip, None) for clip in latents.split(3, dim=1)]
    torch.testing.assert_close(together, torch.cat(alone, dim=1), rtol=0, atol=5e-6)


def layer_work() -> SelfAttention:
    """5 token frames of 2x2 after 3 text tokens."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn((1, 2, 23, 4), generator=generator) for _ in "qkv")
    return SelfAttention(query, key, value, 3, (5, 2, 2), None, scaled_dot_product_attention)


def test_modes_count_in_token_frames_where_patches_span_two() -> None:
    """10 latent frames in 5 token frames: 5 frames to a side are 2, windows of 7 are 3."""
    expected = spectral_attention(layer_work(), 2, gaussian_low_pass(5, 2, 2, cutoff=0.5))
    assert torch.equal(SpectralMode(SpectralAttention(5, 0.5), 10)("", layer_work()), expected)
    windowed = WindowedMode(WindowedAttention(7, 3), 10)("", layer_work())
    assert torch.equal(windowed, windowed_attention(layer_work(), 3, 1))


def test_a_batch_of_clips_is_each_clip_by_itself(tiny_model: Callable[[str], FilePath]) -> None:
    denoiser = denoiser_of(job_of(tiny_model("rotary"), 33, ("denoise.batch_size", 2)))
    latents = latents_of(denoiser, 33)
    (first,) = global_windows(9, 9)
    backwards = replace(first, index=1, frames=first.frames[::-1])
    for attention in (SpectralAttention(2, 0.25), WindowedAttention(3, 2)):
        path = Path("global", 1.0, (first, backwards), attention)
        batch = [
            prediction for _, prediction in denoiser.denoise(latents, StepPlan(0, 500, (path,)))
        ]
        alone = [predict(denoiser, clip, attention) for clip in (latents, latents.flip(1))]
        torch.testing.assert_close(torch.cat(batch), torch.cat(alone), rtol=0, atol=5e-6)
