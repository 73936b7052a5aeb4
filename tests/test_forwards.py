"""From plans to forwards: prompts of every clip, anchors, and guidance as diffusers has it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import CogVideoXPipeline

from glc_ray.backbones import registry
from glc_ray.config import SamplingSpec, VideoJob
from glc_ray.forwards import ForwardPlanner, guidance_scale
from glc_ray.job import build_job
from glc_ray.methods import registry as methods
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import Forward, ModelFacts

TIMELINE = [(0, "a red ball at day"), (17, "a blue box at night")]


def job_of(pipeline: Path, *overrides: tuple[str, object]) -> VideoJob:
    return build_job(load_pipeline(str(pipeline), overrides), TIMELINE, 0)


def forwards_of(job: VideoJob, facts: ModelFacts) -> tuple[Forward, ...]:
    return ForwardPlanner(job, facts).forwards(methods.create(job, facts).plan(0, 999))


def test_every_clip_has_the_prompts_of_its_own_frames(tiny_pipeline: Path) -> None:
    """33 frames are 9 latents; the cut is at latent 5 (pixel frames 17..20)."""
    job = job_of(tiny_pipeline, ("sampling.transition_frames", 0))
    clips = [
        (window, weights)
        for forward in forwards_of(job, registry.facts(job.pipeline.model))
        for window, weights in zip(forward.windows, forward.prompt_weights, strict=True)
    ]
    assert [window.index for window, _ in clips] == list(range(len(clips)))
    assert {window.path for window, _ in clips} == {"global", "local"}
    for window, (first, second) in clips:
        later = sum(frame >= 5 for frame in window.frames)
        assert (first, second) == pytest.approx((1 - later / 3, later / 3))


def test_an_anchor_brings_the_prompts_of_its_own_frames(tiny_pipeline: Path) -> None:
    job = job_of(tiny_pipeline, ("sampling.transition_frames", 0))
    forwards = forwards_of(job, registry.facts(job.pipeline.model))
    for forward in forwards:
        anchor = next(f for f in forwards if f.path == forward.path and f.is_anchor)
        assert forward.anchor == anchor.windows[0]
        assert forward.anchor_prompt_weights == anchor.prompt_weights[0]
    local = forwards[-1]
    assert (local.anchor_prompt_weights, local.prompt_weights[-1]) == ((1, 0), (0, 1))


def test_a_leading_latent_frame_shifts_the_prompts(
    tiny_model: Callable[[str], Path], tiny_pipeline: Path
) -> None:
    """CogVideoX 1.5 denoises one latent in front that is not decoded: the cut is at latent 6."""
    job = job_of(
        tiny_pipeline,
        ("model.path", str(tiny_model("1.5"))),
        *(("sampling.transition_frames", 0), ("glc.global_path", False)),
    )
    facts = registry.facts(job.pipeline.model)
    assert facts.leading_latent_frames == 1
    seconds = {}
    for forward in forwards_of(job, facts):
        for window, (_, second) in zip(forward.windows, forward.prompt_weights, strict=True):
            later = sum(frame >= 6 for frame in window.frames)
            assert second == pytest.approx(later / len(window.frames))
            seconds[window.frames] = second
    assert 0 in seconds.values()
    assert max(seconds.values()) > 0.5


def test_a_lone_prompt_counts_alone(tiny_pipeline: Path) -> None:
    job = build_job(load_pipeline(str(tiny_pipeline)), "a red ball", 0)
    forwards = forwards_of(job, registry.facts(job.pipeline.model))
    assert {weights for forward in forwards for weights in forward.prompt_weights} == {(1.0,)}


def test_the_number_of_workers_changes_no_forward(tiny_pipeline: Path) -> None:
    """Nor does anything else under ``resources``: forwards are what the bits depend on."""
    one, many = (
        job_of(tiny_pipeline, ("resources.denoisers.count", count), ("name", f"on {count}"))
        for count in (1, 7)
    )
    facts = registry.facts(one.pipeline.model)
    assert forwards_of(one, facts) == forwards_of(many, facts)


@pytest.mark.parametrize("dynamic", [False, True])
def test_guidance_is_diffusers_own(tiny_pipeline: Path, dynamic: bool) -> None:
    spec = load_pipeline(str(tiny_pipeline))
    pipeline = CogVideoXPipeline.from_pretrained(spec.model.path).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    theirs: list[tuple[float, float]] = []

    def record(pipe: CogVideoXPipeline, step: int, timestep: object, _: dict) -> dict:
        theirs.append((float(timestep), pipe.guidance_scale))  # type: ignore[arg-type]
        return {}

    pipeline(
        "a red ball",
        num_frames=9,
        num_inference_steps=7,
        guidance_scale=4.0,
        use_dynamic_cfg=dynamic,
        max_sequence_length=16,
        output_type="latent",
        callback_on_step_end=record,
    )
    sampling = SamplingSpec(num_steps=7, guidance_scale=4.0, dynamic_guidance=dynamic)
    facts = registry.facts(spec.model)
    assert len({scale for _, scale in theirs}) == (7 if dynamic else 1)
    for timestep, scale in theirs:
        assert guidance_scale(sampling, facts, timestep) == scale


def test_the_low_noise_stage_has_its_own_guidance(tiny_pipeline: Path) -> None:
    facts = registry.facts(load_pipeline(str(tiny_pipeline)).model)
    stages = replace(facts, low_noise_below=875.0)
    both = SamplingSpec(guidance_scale=4, guidance_scale_2=3)
    assert [guidance_scale(both, stages, timestep) for timestep in (999, 875, 874.9, 0)] == [
        *(4, 4, 3, 3)
    ]
    assert guidance_scale(both, facts, 0) == 4
    assert guidance_scale(SamplingSpec(guidance_scale=4), stages, 0) == 4
    assert guidance_scale(SamplingSpec(guidance_scale=1), stages, 0) is None
