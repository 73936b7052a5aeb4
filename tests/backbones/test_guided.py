"""What all backbones share, on the tiny models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glc_ray.backbones import registry
from tests.tiny_denoiser import denoiser_of
from tests.tiny_wan import TinyWan, tiny_wan, tiny_wan_job  # noqa: F401

PROMPTS = ("a red ball", "a blue box over the sea at night", "a green cone rolls")
CPU = torch.device("cpu")


@pytest.fixture(params=["cogvideox", "wan"])
def backbone(
    request: pytest.FixtureRequest,
    tiny_model: Callable[[str], Path],
    tiny_wan: TinyWan,  # noqa: F811
) -> Any:
    if request.param == "cogvideox":
        return denoiser_of(tiny_model("sincos")).backbone
    return registry.load_backbone(tiny_wan_job(tiny_wan("one")).pipeline, CPU)


@pytest.mark.parametrize("negative_prompt", ["", "a ball at night"])
def test_the_negative_prompt_is_encoded_once(backbone: Any, negative_prompt: str) -> None:
    alone = [backbone.encode_prompts((prompt,), negative_prompt) for prompt in PROMPTS]
    encoded: list[int] = []
    hook = backbone.text_pipeline.text_encoder.register_forward_hook(
        lambda module, given, result: encoded.append(len(given[0]))
    )
    together = backbone.encode_prompts(PROMPTS, negative_prompt).tensors["prompt_embeds"]
    hook.remove()
    assert torch.equal(together, torch.cat([one.tensors["prompt_embeds"] for one in alone]))
    assert encoded == [1] * (len(PROMPTS) + 1)


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_memory_of_a_text_encoder_that_has_left_the_gpu_is_free_for_others(
    backbone: Any, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order of what is asked of torch; what comes of it shows on a GPU alone."""
    features = torch.zeros(1, 4, 5)
    pipeline, asked = backbone.text_pipeline, []
    monkeypatch.setattr(pipeline.text_encoder, "to", lambda to: asked.append(torch.device(to).type))
    monkeypatch.setattr(pipeline, "encode_prompt", lambda *_, **__: (features, features))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: asked.append("free"))
    monkeypatch.setattr(backbone, "device", torch.device(device))
    backbone.encode_prompts(PROMPTS, "")
    assert asked == (["cuda", "cpu", "free"] if device == "cuda" else ["cpu", "cpu"])
