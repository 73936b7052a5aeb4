"""Eq. 10 within whole models, by other means: hooks on diffusers' own layers, its own processors.

Hooks note the anchor's keys (after their norm) and values, and write the blend into the next
forward's; the text's stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glc_ray.backbones.attention import BlendAnchor, RecordAnchor
from glc_ray.config import VideoJob
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import AnchorAttention
from glc_ray.sampler import LocalDenoiser
from tests.tiny_wan import tiny_wan_job

Make = Callable[[str], Path]
WEIGHT = 0.3


def denoiser_of(kind: str, tiny_model: Make, tiny_wan: Make) -> LocalDenoiser:
    if kind == "wan":
        job = tiny_wan_job(tiny_wan("one"), num_frames=33)
    else:
        options = [("model.path", str(tiny_model(kind))), ("video.num_frames", 33)]
        job = VideoJob(prompt="a red ball", pipeline=load_pipeline("toyworld", options))
    return LocalDenoiser.of(job, torch.device("cpu"))


def key_norms_and_values(transformer: Any) -> list[Any]:
    names = ("attn1.norm_k", "attn1.to_v")
    return [layer for name, layer in transformer.named_modules() if name.endswith(names)]


@contextmanager
def hooked(layers: list[Any], hook: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """``hook`` sees each layer's place and output, and may give another output."""
    handles = [
        layer.register_forward_hook(lambda _, __, output, place=place: hook(place, output))
        for place, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("kind", ["sincos", "rotary", "1.5", "wan"])
@pytest.mark.parametrize("literal", [False, True])
def test_every_layer_blends_the_videos_keys_and_values_and_nothing_else(
    tiny_model: Make, tiny_wan: Make, kind: str, literal: bool
) -> None:
    denoiser = denoiser_of(kind, tiny_model, tiny_wan)
    backbone: Any = denoiser.backbone
    layers = key_norms_and_values(backbone.transformer)
    # Text comes first in CogVideoX; Wan's has an attention of its own.
    num_text = 0 if kind == "wan" else backbone.transformer.config.max_text_seq_length
    size = denoiser.planner.facts.window_size
    latents = torch.randn(
        denoiser.planner.facts.latents_shape(33), generator=torch.Generator().manual_seed(0)
    )
    anchor, clip = latents[:, :size], latents[:, size : 2 * size]
    embeds = denoiser.conditioning.tensors["prompt_embeds"]

    def guided(clips: Tensor, mode: Any = None) -> Tensor:
        with torch.inference_mode():
            return backbone.guided(clips, 500, {"prompt_embeds": embeds}, 6.0, mode)

    # Wan runs a forward for each branch: a list of outputs for each layer.
    seen: dict[int, list[Tensor]] = {place: [] for place in range(len(layers))}
    with hooked(layers, lambda place, output: seen[place].append(output.clone())):
        guided(anchor)
    share = 1 - WEIGHT if literal else WEIGHT

    def blend(place: int, output: Tensor) -> Tensor:
        theirs = seen[place].pop(0)
        axis = output.ndim - 2
        video = torch.arange(output.shape[axis]) >= num_text
        mixed = (1 - share) * output + share * theirs
        return torch.where(video[:, None], mixed, output)

    with hooked(layers, blend):
        expected = guided(clip)
    assert not any(seen.values()), "every layer of every forward was blended"

    record = RecordAnchor(on_cpu=False)
    guided(anchor, record)
    ours = guided(clip, BlendAnchor(record.states, AnchorAttention(WEIGHT, literal)))
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert (ours - guided(clip)).abs().max() > 1e-3, "the anchor counts for something"
