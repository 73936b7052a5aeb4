"""The VAE as a specification asks for it, whichever the backbone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glc_ray.backbones import registry
from glc_ray.config import DecodeSpec, ModelSpec
from glc_ray.media.decode import stream_pixels

Make = Callable[[str], Path]


@pytest.mark.parametrize("backbone", ["cogvideox", "wan"])
@pytest.mark.parametrize(
    ("own", "models", "expected"),
    [
        (None, "bfloat16", torch.bfloat16),
        ("float32", "bfloat16", torch.float32),
        ("bfloat16", "float32", torch.bfloat16),
    ],
)
def test_precision_is_its_own_or_else_the_models(
    tiny_model: Make, tiny_wan: Make, backbone: Any, own: Any, models: Any, expected: torch.dtype
) -> None:
    folder = tiny_wan("one") if backbone == "wan" else tiny_model("sincos")
    size = {"clip_frames": 9, "height": 32, "width": 48}
    model = ModelSpec(backbone=backbone, path=str(folder), dtype=models, **size)
    decoder = registry.load_frame_decoder(model, DecodeSpec(dtype=own), torch.device("cpu"))
    channels = registry.facts(model).latent_channels
    (pixels,) = stream_pixels(decoder, torch.zeros(1, 1, channels, 4, 6))
    assert pixels.dtype == expected
