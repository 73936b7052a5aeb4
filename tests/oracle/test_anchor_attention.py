"""Oracle 5: anchor attention without weight is diffusers' own; identical clips stay unchanged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path as FilePath
from typing import Any

import pytest
import torch
from torch import Tensor

from glc_ray.backbones import registry
from glc_ray.backbones.attention import AttentionMode, BlendAnchor, BlendFirst, RecordAnchor
from glc_ray.forwards import ForwardPlanner
from glc_ray.methods import registry as methods
from glc_ray.protocols import AnchorAttention, Forward
from glc_ray.sampler import LocalDenoiser, gather_clips
from tests.tiny_denoiser import denoiser_of

POSITIONS = pytest.mark.parametrize("positions", ["sincos", "rotary"])
GUIDANCE = pytest.mark.parametrize("guidance_scale", [None, 6.0])


def video_latents(denoiser: LocalDenoiser, seed: int = 0) -> Tensor:
    shape = denoiser.planner.facts.latents_shape(33)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def guided(
    denoiser: LocalDenoiser,
    clips: Tensor,
    guidance_scale: float | None,
    mode: AttentionMode | None,
    timestep: int = 500,
) -> Tensor:
    backbone: Any = denoiser.backbone
    embeds = denoiser.conditioning.tensors["prompt_embeds"].expand(len(clips), -1, -1, -1)
    with torch.inference_mode():
        return backbone.guided(clips, timestep, {"prompt_embeds": embeds}, guidance_scale, mode)


@POSITIONS
@GUIDANCE
def test_recording_and_a_weight_of_0_are_diffusers_own_processor(
    tiny_model: Callable[[str], FilePath], positions: str, guidance_scale: float | None
) -> None:
    denoiser = denoiser_of(tiny_model(positions))
    latents = video_latents(denoiser)
    anchor, clips = latents[:, :3], torch.cat([latents[:, 3:6], latents[:, 6:]])
    stock_anchor = guided(denoiser, anchor, guidance_scale, None)
    stock_clips = guided(denoiser, clips, guidance_scale, None)

    record = RecordAnchor(on_cpu=False)
    assert torch.equal(guided(denoiser, anchor, guidance_scale, record), stock_anchor)
    assert len(record.states) == 2, "one entry a layer"
    for weight, literal in ((0.0, False), (1.0, True)):
        options = AnchorAttention(weight, literal)
        kept = guided(denoiser, clips, guidance_scale, BlendAnchor(record.states, options))
        assert torch.equal(kept, stock_clips)
    changed = BlendAnchor(record.states, AnchorAttention(0.1))
    assert not torch.allclose(guided(denoiser, clips, guidance_scale, changed), stock_clips)


@POSITIONS
@GUIDANCE
@pytest.mark.parametrize("weight", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("literal", [False, True])
def test_clips_identical_to_the_anchor_are_unchanged_at_any_weight(
    tiny_model: Callable[[str], FilePath],
    positions: str,
    guidance_scale: float | None,
    weight: float,
    literal: bool,
) -> None:
    denoiser = denoiser_of(tiny_model(positions))
    anchor = video_latents(denoiser)[:, :3]
    stock = guided(denoiser, anchor, guidance_scale, None)
    options = AnchorAttention(weight, literal)
    record = RecordAnchor(on_cpu=False)
    guided(denoiser, anchor, guidance_scale, record)
    blended = guided(denoiser, anchor, guidance_scale, BlendAnchor(record.states, options))
    assert torch.equal(blended, stock)
    three = torch.cat([anchor] * 3)
    along = guided(denoiser, three, guidance_scale, BlendFirst(3, options))
    # Close, since a matrix product rounds a row by its place in the batch.
    torch.testing.assert_close(along, guided(denoiser, three, guidance_scale, None))


@POSITIONS
@GUIDANCE
def test_anchor_that_rides_along_blends_as_one_that_is_kept(
    tiny_model: Callable[[str], FilePath], positions: str, guidance_scale: float | None
) -> None:
    """The same function of the clips; the batches differ, and so the last bits may."""
    denoiser = denoiser_of(tiny_model(positions))
    latents = video_latents(denoiser)
    anchor, clips = latents[:, :3], torch.cat([latents[:, 3:6], latents[:, 6:]])
    options = AnchorAttention(0.3)
    record = RecordAnchor(on_cpu=True)
    guided(denoiser, anchor, guidance_scale, record)
    kept = guided(denoiser, clips, guidance_scale, BlendAnchor(record.states, options))
    first = BlendFirst(3, options)
    along = guided(denoiser, torch.cat([anchor, clips]), guidance_scale, first)
    torch.testing.assert_close(along[1:], kept, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(along[:1], guided(denoiser, anchor, guidance_scale, None))


def first_step(denoiser: LocalDenoiser) -> tuple[Forward, ...]:
    plan = methods.create(denoiser.planner.job, denoiser.planner.facts).plan(0, 999)
    return denoiser.planner.forwards(plan)


def run(denoiser: LocalDenoiser, latents: Tensor, forward: Forward) -> Tensor:
    needs_anchor = forward.anchor is not None and not forward.is_anchor
    anchor = gather_clips(latents, [forward.anchor]) if needs_anchor else None
    clips = gather_clips(latents, forward.windows)
    return denoiser.backbone.predict(clips, forward, denoiser.conditioning, anchor)


@pytest.mark.parametrize("cache", ["device", "cpu", "recompute"])
def test_a_batch_gives_the_same_bits_in_any_order_and_with_any_history(
    tiny_model: Callable[[str], FilePath], cache: str
) -> None:
    denoiser = denoiser_of(tiny_model("sincos"), ("glc.abam.cache", cache))
    latents = video_latents(denoiser)
    forwards = first_step(denoiser)
    # 3 global windows and 7 local ones, two in a batch, anchors alone.
    assert [len(forward.windows) for forward in forwards] == [1, 2, 1, 2, 2, 2]
    assert [forward.is_anchor for forward in forwards] == [True, False, True, False, False, False]
    in_order = [run(denoiser, latents, forward) for forward in forwards]
    # One that knows the anchors computes no other; one that rides along comes with every batch.
    assert denoiser.backbone.anchor_forwards == (4 if cache == "recompute" else 0)

    fresh = denoiser_of(tiny_model("sincos"), ("glc.abam.cache", cache))
    backwards = [run(fresh, latents, forward) for forward in reversed(forwards)]
    for one, other in zip(in_order, reversed(backwards), strict=True):
        assert torch.equal(one, other)
    # Last of the local path, its anchor unknown: computed once; the same for the global path.
    assert fresh.backbone.anchor_forwards == (4 if cache == "recompute" else 2)


def test_where_the_cache_lies_does_not_change_a_bit(
    tiny_model: Callable[[str], FilePath],
) -> None:
    results = []
    for cache in ("device", "cpu"):
        denoiser = denoiser_of(tiny_model("rotary"), ("glc.abam.cache", cache))
        latents = video_latents(denoiser)
        results.append(torch.cat([run(denoiser, latents, each) for each in first_step(denoiser)]))
    assert torch.equal(*results)


@pytest.mark.parametrize(("weight", "literal"), [(0.0, False), (1.0, True)])
def test_no_anchor_is_computed_where_it_has_no_share(
    tiny_model: Callable[[str], FilePath], weight: float, literal: bool
) -> None:
    folder = tiny_model("sincos")
    options = [("glc.abam.weight", weight), ("glc.abam.literal", literal)]
    denoiser = denoiser_of(folder, *options)
    latents = video_latents(denoiser)
    last = first_step(denoiser)[-1]
    clips = gather_clips(latents, last.windows)
    assert torch.equal(
        run(denoiser, latents, last),
        guided(denoiser, clips, last.guidance_scale, None, timestep=last.timestep),
    )
    assert denoiser.backbone.anchor_forwards == 0


def test_anchors_of_two_videos_are_not_mixed_up(tiny_model: Callable[[str], FilePath]) -> None:
    """The cache has room for one video here; two take turns."""
    denoiser = denoiser_of(tiny_model("sincos"))
    forwards = first_step(denoiser)
    alone = {}
    for seed in (1, 2):
        fresh = denoiser_of(tiny_model("sincos"))
        alone[seed] = run(fresh, video_latents(fresh, seed), forwards[1])
    registry_facts = registry.facts(denoiser.planner.job.pipeline.model)
    assert registry_facts == denoiser.planner.facts
    for seed in (1, 2, 1):
        job = denoiser.planner.job.model_copy(update={"seed": seed})
        planner = ForwardPlanner(job, registry_facts)
        plan = methods.create(denoiser.planner.job, registry_facts).plan(0, 999)
        forward = planner.forwards(plan)[1]
        assert torch.equal(run(denoiser, video_latents(denoiser, seed), forward), alone[seed])
    assert denoiser.backbone.anchor_forwards == 3
