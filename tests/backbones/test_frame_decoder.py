"""The VAE as a specification asks for it, whichever the backbone."""

from __future__ import annotations

import json
import shutil
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


def test_facts_of_a_decoder_are_those_of_the_configuration_as_it_is_now(
    tiny_model: Make, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_model("sincos"), tmp_path / "model"))
    model = ModelSpec(path=str(folder))
    decode = DecodeSpec(tiling="on", tile_height=8, tile_width=8, tile_overlap=0.5)
    before, whole = (registry.decoder_facts(model, one) for one in (decode, DecodeSpec()))
    assert before.tiles is not None
    assert whole.tiles is None
    assert registry.decoder_facts(model, decode) is before
    file = folder / "vae" / "config.json"
    config = json.loads(file.read_text()) | {"layers_per_block": 2}
    file.write_text(json.dumps(config))
    assert registry.decoder_facts(model, decode).exact_warmup > before.exact_warmup
