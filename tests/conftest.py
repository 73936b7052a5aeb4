"""Shared by all tests: no network, and tiny random-weight models of the real classes."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from glc_ray.config import ModelSpec
from tests.tiny_wan import tiny_wan  # noqa: F401

os.environ["HF_HUB_OFFLINE"] = "1"
# A cluster that happens to run on this machine is none of the tests' business.
os.environ.pop("RAY_ADDRESS", None)

# A shell's background jobs ignore it, and so would all that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test depends on how fast the machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

TOYWORLD = Path(__file__).parents[1] / "glc_ray" / "backbones" / "toyworld"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``tiny_model("sincos" | "rotary" | "1.5")``: a diffusers folder of CogVideoX with random
    weights.

    A window is 3 latent frames of 4x6 (4 in CogVideoX 1.5); a forward takes milliseconds.
    """
    folders: dict[str, Path] = {}

    def make(positions: str) -> Path:
        if positions not in folders:
            folders[positions] = _save_tiny(tmp_path_factory.mktemp(positions), positions)
        return folders[positions]

    return make


def _save_tiny(folder: Path, positions: str) -> Path:
    import torch
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXTransformer3DModel,
    )

    torch.manual_seed(0)
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        time_embed_dim=8,
        text_embed_dim=64,
        max_text_seq_length=16,
        sample_width=6,
        sample_height=4,
        sample_frames=9,
        patch_size=2,
        patch_size_t=2 if positions == "1.5" else None,
        patch_bias=positions != "1.5",
        use_rotary_positional_embeddings=positions != "sincos",
    )
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        sample_height=16,
        sample_width=24,
    )
    scheduler = CogVideoXDDIMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    transformer.save_pretrained(folder / "transformer")
    vae.save_pretrained(folder / "vae")
    scheduler.save_pretrained(folder / "scheduler")
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(TOYWORLD / part, folder / part)
    shutil.copy(TOYWORLD / "model_index.json", folder)
    assert "CogVideoXPipeline" in json.loads((folder / "model_index.json").read_text()).values()
    return folder


@pytest.fixture
def model_of(tmp_path: Path) -> Callable[[Any], ModelSpec]:
    """``model_of(scheduler)``: a model folder with nothing but a noise scheduler."""

    def make(scheduler: Any) -> ModelSpec:
        scheduler.save_pretrained(tmp_path / "scheduler")
        index = {"scheduler": ["diffusers", type(scheduler).__name__]}
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        return ModelSpec(path=str(tmp_path))

    return make


@pytest.fixture
def tiny_pipeline(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """A pipeline file for the tiny model: 33 frames (9 latents, 3 windows wide), 3 steps."""
    return write_tiny_pipeline(tmp_path, tiny_model("sincos"))


def write_tiny_pipeline(folder: Path, model: Path) -> Path:
    """What ``tiny_pipeline`` is, for fixtures that outlive a test."""
    file = folder / "tiny.yaml"
    file.write_text(
        f"""
prompt: a red ball
model: {{path: {model}}}
video: {{num_frames: 33}}
sampling: {{num_steps: 3, guidance_scale: 3.0}}
denoise: {{batch_size: 2}}
resources:
  denoisers: {{count: 1, num_cpus: 1}}
"""
    )
    return file
