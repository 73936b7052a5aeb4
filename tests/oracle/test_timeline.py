"""Timelines against answers from elsewhere: plain jobs, diffusers' pipeline, sums by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXPipeline

from glc_ray.backbones import registry
from glc_ray.backbones.prompt_features import mixture
from glc_ray.config import TimedPrompt, VideoJob
from glc_ray.job import build_job
from glc_ray.methods import registry as methods
from glc_ray.pipeline_file import load_pipeline
from glc_ray.prompts import PromptLike
from glc_ray.protocols import Conditioning
from glc_ray.sampler import LocalDenoiser, sample_job

DAY, NIGHT = "a red ball over the meadow at day", "a blue box over the sea at night"
CPU = torch.device("cpu")
NATIVE = [
    *(("video.num_frames", 9), ("glc.global_path", False)),
    *(("glc.noise_reinit", False), ("glc.vmcr", False)),
]
"""One window of 3 latent frames and nothing else: diffusers' own sampling."""
LATENTS = torch.randn((1, 9, 4, 4, 6), generator=torch.Generator().manual_seed(0))


def job_of(pipeline: Path, prompt: PromptLike, *overrides: tuple[str, object]) -> VideoJob:
    return build_job(load_pipeline(str(pipeline), overrides), prompt, 5)


def predictions(job: VideoJob) -> list[torch.Tensor]:
    """The model's guided output for every window of the first step, on the same latents."""
    facts = registry.facts(job.pipeline.model)
    plan = methods.create(job, facts).plan(0, 999)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(facts.latents_shape(job.pipeline.video.num_frames), generator=generator)
    return [prediction for _, prediction in LocalDenoiser.of(job, CPU).denoise(latents, plan)]


@pytest.mark.parametrize("overrides", [NATIVE, []], ids=["native length", "long"])
def test_a_timeline_of_one_prompt_is_the_plain_job(
    tiny_pipeline: Path, overrides: list[tuple[str, object]]
) -> None:
    plain = job_of(tiny_pipeline, DAY, *overrides)
    timeline = plain.model_copy(update={"prompts": (TimedPrompt(at_frame=0, text=DAY),)})
    assert timeline.specification_hash == plain.specification_hash
    ours = sample_job(timeline, LocalDenoiser.of(timeline, CPU))
    assert torch.equal(ours, sample_job(plain, LocalDenoiser.of(plain, CPU)))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_window_within_one_prompt_is_conditioned_as_by_a_plain_job(
    tiny_pipeline: Path, batch_size: int
) -> None:
    """Local windows of 9 latents start at 0, 1, .. 6; the cut is at latent 5."""
    options = [
        *(("glc.global_path", False), ("glc.abam", False), ("glc.stride", 1)),
        *(("sampling.transition_frames", 0), ("denoise.batch_size", batch_size)),
    ]
    changing = predictions(job_of(tiny_pipeline, [(0, DAY), (17, NIGHT)], *options))
    day = predictions(job_of(tiny_pipeline, DAY, *options))
    night = predictions(job_of(tiny_pipeline, NIGHT, *options))
    assert len(changing) == 7
    for start, prediction in enumerate(changing):
        assert torch.equal(prediction, day[start]) == (start + 2 < 5)
        assert torch.equal(prediction, night[start]) == (start >= 5)


def test_features_that_clips_show_again_are_not_mixed_again(tiny_pipeline: Path) -> None:
    job = job_of(tiny_pipeline, [(0, DAY), (17, NIGHT)], ("glc.stride", 2))
    plan = methods.create(job, registry.facts(job.pipeline.model)).plan(0, 999)
    denoiser = LocalDenoiser.of(job, CPU)
    first = [prediction for _, prediction in denoiser.denoise(LATENTS, plan)]
    features = denoiser.conditioning.tensors["prompt_embeds"]
    denoiser.conditioning = Conditioning({"prompt_embeds": torch.full_like(features, torch.nan)})
    again = [prediction for _, prediction in denoiser.denoise(LATENTS, plan)]
    assert torch.equal(torch.stack(again), torch.stack(first))
    denoiser.backbone.encode_prompts((DAY, NIGHT), "")
    broken = [prediction for _, prediction in denoiser.denoise(LATENTS, plan)]
    assert torch.stack(broken).isnan().all()


def test_an_anchor_of_the_first_prompt_reaches_into_windows_of_the_second(
    tiny_pipeline: Path,
) -> None:
    """The anchor is the path's first window whatever it shows (decided); glc.abam turns it off."""
    options = [("glc.global_path", False), ("sampling.transition_frames", 0)]
    changing = predictions(job_of(tiny_pipeline, [(0, DAY), (17, NIGHT)], *options))
    night = predictions(job_of(tiny_pipeline, NIGHT, *options))
    assert not torch.equal(changing[-1], night[-1])
    torch.testing.assert_close(changing[-1], night[-1], atol=0.1, rtol=0)


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
def test_half_and_half_is_diffusers_pipeline_with_the_mean_of_the_features(
    tiny_pipeline: Path, guidance_scale: float
) -> None:
    """Latents 0, 1, 2 show frames 0, 4, 8: the first prompt weighs 1, 1/2, 0 there; mean 1/2."""
    job = job_of(
        tiny_pipeline,
        [(0, DAY), (4, NIGHT)],
        *NATIVE,
        *(("sampling.transition_frames", 8), ("sampling.guidance_scale", guidance_scale)),
        ("denoise.threads", torch.get_num_threads()),
    )
    pipeline = CogVideoXPipeline.from_pretrained(job.pipeline.model.path).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    encode = {"negative_prompt": "", "max_sequence_length": 16}
    with torch.no_grad():
        day, unconditional = pipeline.encode_prompt(DAY, **encode)
        night, _ = pipeline.encode_prompt(NIGHT, **encode)
    theirs = pipeline(
        prompt_embeds=0.5 * day + 0.5 * night,
        negative_prompt_embeds=unconditional,
        num_frames=9,
        num_inference_steps=3,
        guidance_scale=guidance_scale,
        max_sequence_length=16,
        generator=torch.Generator().manual_seed(5),
        output_type="latent",
    ).frames
    assert torch.equal(sample_job(job, LocalDenoiser.of(job, CPU)), theirs)


def test_features_are_mixed_as_by_hand(tiny_pipeline: Path) -> None:
    backbone = LocalDenoiser.of(job_of(tiny_pipeline, DAY), CPU).backbone
    features = backbone.encode_prompts((DAY, NIGHT, "a green cone"), "").tensors["prompt_embeds"]
    ours = [mixture(features, weights) for weights in ((0.25, 0.75, 0.0), (0.0, 0.0, 1.0))]
    torch.testing.assert_close(ours[0], 0.25 * features[0] + 0.75 * features[1])
    assert torch.equal(ours[1], features[2])
    # The unconditional branch knows no prompt.
    torch.testing.assert_close(ours[0][0], features[0, 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_features_in_half_precision_are_mixed_in_single(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 2, 5, 8, generator=generator).to(dtype)
    exact = 0.3 * features[0].double() + 0.7 * features[1].double()
    mixed = mixture(features, (0.3, 0.7))
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed.double(), exact, atol=1e-6, rtol=0)
    assert torch.equal(mixture(features, (0.0, 1.0)), features[1])
