"""Oracle 1 for Wan: at native length diffusers' own pipeline gives the latents."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from torch import Tensor

from glc_ray.methods import registry as methods
from glc_ray.sampler import LocalDenoiser, gather_clips, sample_job, torch_threads
from tests.tiny_wan import PROMPT, TinyWan, tiny_wan_job

NEGATIVE = "the sea at night"
PLAIN = {"global_path": False, "noise_reinit": False, "vmcr": False}
CPU = torch.device("cpu")

KINDS = pytest.mark.parametrize("kind", ["one", "two"])
GUIDANCE = pytest.mark.parametrize("guidance_scale", [None, 5.0])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many as a denoiser has by default."""
    with torch_threads(1):
        yield


def pipeline_of(folder: Path, scheduler: str, **options: Any) -> WanPipeline:
    pipeline = WanPipeline.from_pretrained(folder, **options)
    if scheduler == "FlowMatchEulerDiscreteScheduler":
        shift = pipeline.scheduler.config.flow_shift
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_latents(pipeline: WanPipeline, sampling: dict[str, Any], seed: int = 7) -> Tensor:
    second = {key: value for key, value in sampling.items() if key == "guidance_scale_2"}
    return pipeline(
        PROMPT,
        NEGATIVE,
        num_frames=9,
        height=32,
        width=48,
        num_inference_steps=sampling["num_steps"],
        guidance_scale=sampling["guidance_scale"],
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **second,
    ).frames.transpose(1, 2)


@KINDS
@pytest.mark.parametrize(
    "scheduler", ["UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"]
)
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("num_steps", [1, 4])
def test_native_length_equals_diffusers_pipeline(
    tiny_wan: TinyWan, kind: str, scheduler: str, guidance_scale: float, num_steps: int
) -> None:
    folder = tiny_wan(kind)
    sampling = {"num_steps": num_steps, "guidance_scale": guidance_scale}
    spec = {**sampling, "scheduler": scheduler, "negative_prompt": NEGATIVE}
    job = tiny_wan_job(folder, sampling=spec, glc={**PLAIN, "abam": False})
    ours = sample_job(job, LocalDenoiser.of(job, CPU))
    assert torch.equal(ours, pipeline_latents(pipeline_of(folder, scheduler), sampling))


@pytest.mark.parametrize("guidance_scale_2", [None, 1.0, 3.0])
def test_the_low_noise_transformer_has_a_guidance_of_its_own(
    tiny_wan: TinyWan, guidance_scale_2: float | None
) -> None:
    folder = tiny_wan("two")
    sampling = {"num_steps": 4, "guidance_scale": 4.0, "guidance_scale_2": guidance_scale_2}
    spec = {**sampling, "negative_prompt": NEGATIVE}
    job = tiny_wan_job(folder, sampling=spec, glc={**PLAIN, "abam": False})
    denoiser = LocalDenoiser.of(job, CPU)
    backbone: Any = denoiser.backbone
    calls = {"transformer": 0, "transformer_2": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    for name, transformer in zip(calls, backbone.transformers, strict=True):
        transformer.register_forward_hook(count(name))
    ours = sample_job(job, denoiser)
    assert torch.equal(ours, pipeline_latents(pipeline_of(folder, "model"), sampling))
    assert calls == {"transformer": 4, "transformer_2": 4}, "two steps each, two branches a step"


def test_one_window_is_its_own_anchor(tiny_wan: TinyWan) -> None:
    folder = tiny_wan("two")
    sampling = {"num_steps": 4, "guidance_scale": 5.0}
    spec = {**sampling, "negative_prompt": NEGATIVE}
    job = tiny_wan_job(folder, sampling=spec, glc={**PLAIN, "abam": {"weight": 0.5}})
    ours = sample_job(job, LocalDenoiser.of(job, CPU))
    assert torch.equal(ours, pipeline_latents(pipeline_of(folder, "model"), sampling))


@pytest.mark.parametrize("method", ["direct", "gen_l_video", "freenoise", "freelong"])
def test_other_methods_at_native_length_are_the_pipeline(tiny_wan: TinyWan, method: str) -> None:
    """One window, which is divided within attention (FreeNoise) or filtered (FreeLong)."""
    folder = tiny_wan("two")
    sampling = {"num_steps": 4, "guidance_scale": 5.0}
    job = tiny_wan_job(folder, method=method, sampling={**sampling, "negative_prompt": NEGATIVE})
    ours = sample_job(job, LocalDenoiser.of(job, CPU))
    theirs = pipeline_latents(pipeline_of(folder, "model"), sampling)
    # A filter and its complement, or an average of equal windows, add up to rounding.
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    if method in ("direct", "gen_l_video"):
        assert torch.equal(ours, theirs)


@GUIDANCE
def test_prediction_in_half_precision_is_the_pipelines(
    tiny_wan: TinyWan, guidance_scale: float | None
) -> None:
    """Combined in bfloat16. (Latents then differ: the pipeline's scheduler rounds to it, too.)"""
    folder = tiny_wan("one")
    pipeline = pipeline_of(folder, "model", torch_dtype=torch.bfloat16)
    step, outputs = pipeline.scheduler.step, []

    def watched(output: Tensor, *arguments: Any, **options: Any) -> Any:
        outputs.append(output)
        return step(output, *arguments, **options)

    pipeline.scheduler.step = watched
    pipeline_latents(pipeline, {"num_steps": 1, "guidance_scale": guidance_scale or 1.0})
    spec = {"num_steps": 1, "guidance_scale": guidance_scale or 1.0, "negative_prompt": NEGATIVE}
    job = tiny_wan_job(
        folder, sampling=spec, model={"dtype": "bfloat16"}, glc={**PLAIN, "abam": False}
    )
    denoiser = LocalDenoiser.of(job, CPU)
    noise = torch.randn((1, 16, 3, 4, 6), generator=torch.Generator().manual_seed(7))
    (timestep,) = pipeline.scheduler.timesteps.tolist()
    plan = methods.create(job, denoiser.planner.facts).plan(0, timestep)
    ((_, ours),) = denoiser.denoise(noise.transpose(1, 2), plan)
    assert outputs[0].dtype == torch.bfloat16
    assert ours.dtype == torch.float32
    assert torch.equal(ours, outputs[0].transpose(1, 2).float())


def test_a_batch_gives_what_its_clips_give_alone(tiny_wan: TinyWan) -> None:
    """Up to rounding."""
    job = tiny_wan_job(
        tiny_wan("one"),
        num_frames=33,
        denoise={"batch_size": 2},
        glc={"abam": False, "local_path": False},
    )
    denoiser = LocalDenoiser.of(job, CPU)
    latents = torch.randn((1, 9, 16, 4, 6), generator=torch.Generator().manual_seed(0))
    plan = methods.create(job, denoiser.planner.facts).plan(0, 500)
    batched = dict(denoiser.denoise(latents, plan))
    for window, prediction in batched.items():
        clip = gather_clips(latents, [window])
        embeds = denoiser.conditioning.tensors["prompt_embeds"]
        backbone: Any = denoiser.backbone
        with torch.inference_mode():
            alone = backbone.guided(clip, 500, {"prompt_embeds": embeds}, 6.0, None)
        torch.testing.assert_close(prediction, alone, rtol=1e-4, atol=1e-5)
