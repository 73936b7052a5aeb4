"""Tiny Wan models of diffusers' real classes, with random weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.pipeline_file import validate

TOKENIZER = Path(__file__).parents[1] / "glc_ray" / "backbones" / "toyworld" / "tokenizer"

CLIP = {"model.clip_frames": 9, "model.height": 32, "model.width": 48}
"""Of its specification: a window is 3 latent frames of 4x6, or 2x3 tokens."""

PROMPT = "a red ball bounces over the meadow at day"

TinyWan = Callable[[str], Path]


@pytest.fixture(scope="session")
def tiny_wan(tmp_path_factory: pytest.TempPathFactory) -> TinyWan:
    """``tiny_wan("one" | "two")``: a diffusers folder of Wan with one transformer or with two."""
    folders: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in folders:
            folders[kind] = save_tiny_wan(tmp_path_factory.mktemp(f"wan-{kind}"), kind)
        return folders[kind]

    return make


def tiny_wan_job(folder: Path, *, num_frames: int = 9, seed: int = 7, **sections: Any) -> VideoJob:
    """A job of a tiny model with some sections of its specification, 9 frames being one window."""
    clip = {key.removeprefix("model."): value for key, value in CLIP.items()}
    pipeline = {
        "name": "tiny-wan",
        "video": {"num_frames": num_frames},
        **sections,
        "model": {"backbone": "wan", "path": str(folder), **clip, **sections.get("model", {})},
    }
    return VideoJob(
        prompt=PROMPT, seed=seed, pipeline=validate(PipelineSpec, pipeline, where="test")
    )


def save_tiny_wan(folder: Path, kind: str) -> Path:
    """Save a whole ``WanPipeline`` without loading anything."""
    import torch
    from diffusers import UniPCMultistepScheduler, WanPipeline
    from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

    shutil.copytree(TOKENIZER, folder / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    text = UMT5Config(
        vocab_size=len(tokenizer), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2
    )
    pipeline = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(text).eval(),
        transformer=tiny_transformer(),
        transformer_2=tiny_transformer() if kind == "two" else None,
        boundary_ratio=0.875 if kind == "two" else None,
        vae=tiny_vae(),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    )
    pipeline.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    assert (index["transformer_2"] == [None, None]) == (kind == "one")
    return folder


def tiny_transformer() -> Any:
    from diffusers import WanTransformer3DModel

    return WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=16,
        out_channels=16,
        text_dim=16,
        freq_dim=32,
        ffn_dim=32,
        num_layers=2,
        rope_max_seq_len=32,
    ).eval()


def tiny_vae(**options: Any) -> Any:
    """8x in space, 4x in time."""
    from diffusers import AutoencoderKLWan

    settings = {"base_dim": 3, "z_dim": 16, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1}
    return AutoencoderKLWan(**{**settings, **options}).eval().requires_grad_(False)
