"""What is known of a Wan model from its files and the specification, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.pipelines.wan.pipeline_wan import EXAMPLE_DOC_STRING

from glc_ray.backbones import model_folder, registry
from glc_ray.backbones.wan import WanBackbone
from glc_ray.config import ModelSpec, PipelineSpec
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError
from tests.tiny_wan import TinyWan


def spec(folder: Path, **changes: Any) -> ModelSpec:
    clip = {"clip_frames": 9, "height": 32, "width": 48}
    return ModelSpec(backbone="wan", path=str(folder), **{**clip, **changes})


def refusal(model: ModelSpec) -> str:
    with pytest.raises(UserError) as error:
        registry.facts(model)
    return str(error.value)


@pytest.fixture
def changed(tiny_wan: TinyWan, tmp_path: Path) -> Callable[..., Path]:
    """A copy of a tiny model with other values in one of its JSON files."""

    def make(kind: str, file: str, **values: Any) -> Path:
        shutil.copytree(tiny_wan(kind), tmp_path / "model")
        path = tmp_path / "model" / file
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
        return tmp_path / "model"

    return make


def test_one_transformer(tiny_wan: TinyWan) -> None:
    facts = registry.facts(spec(tiny_wan("one")))
    assert (facts.window_size, facts.temporal_ratio, facts.spatial_ratio) == (3, 4, 8)
    assert (facts.height, facts.width, facts.latent_channels) == (32, 48, 16)
    assert facts.latents_shape(33) == (1, 9, 16, 4, 6)
    assert facts.max_clip_frames == 32
    assert facts.channels_first_noise
    assert facts.low_noise_below is None
    assert facts.capabilities == {
        "long_clips",
        "anchor_attention",
        "spectral_attention",
        "windowed_attention",
    }


def test_two_transformers(tiny_wan: TinyWan) -> None:
    facts = registry.facts(spec(tiny_wan("two")))
    assert facts.low_noise_below == 875.0
    assert "second_guidance" in facts.capabilities


def test_the_boundary_is_a_share_of_the_schedulers_timesteps(changed: Callable[..., Path]) -> None:
    folder = changed("two", "scheduler/scheduler_config.json", num_train_timesteps=800)
    assert registry.facts(spec(folder)).low_noise_below == 700.0


def test_a_second_transformer_without_a_boundary_is_not_used(changed: Callable[..., Path]) -> None:
    """As in diffusers' pipeline."""
    folder = changed("two", "model_index.json", boundary_ratio=None)
    facts = registry.facts(spec(folder))
    assert facts.low_noise_below is None
    assert "second_guidance" not in facts.capabilities


def test_a_vae_of_older_files_is_wan_2_1s(changed: Callable[..., Path]) -> None:
    """Without the scale factors, which later versions of diffusers write."""
    folder = changed("one", "vae/config.json")
    config = json.loads((folder / "vae/config.json").read_text())
    for key in ("scale_factor_temporal", "scale_factor_spatial"):
        del config[key]
    (folder / "vae/config.json").write_text(json.dumps(config))
    facts = registry.facts(spec(folder))
    assert (facts.temporal_ratio, facts.spatial_ratio) == (4, 8)


def test_the_native_clip_must_be_given(tiny_wan: TinyWan) -> None:
    assert refusal(spec(tiny_wan("one"), clip_frames=None, width=None)) == (
        "model.clip_frames, model.width: not set, and Wan's files do not say which clip a model "
        "was trained on; set them, typically --set model.clip_frames=81 --set model.height=480 "
        "--set model.width=832"
    )


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"clip_frames": 10},
            "model.clip_frames = 10: must be 4k+1 for this model; the nearest are 9 and 13",
        ),
        (
            {"height": 500},
            "model.height = 500: must be a multiple of 16 for this model, the pixels of one "
            "token; try 496 and 512",
        ),
        (
            {"width": 8},
            "model.width = 8: must be a multiple of 16 for this model, the pixels of one token; "
            "try 16",
        ),
    ],
)
def test_a_clip_that_the_model_cannot_give(
    tiny_wan: TinyWan, changes: dict[str, int], text: str
) -> None:
    assert refusal(spec(tiny_wan("one"), **changes)) == text


USE = "use a text-to-video model such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers"


@pytest.mark.parametrize(
    ("kind", "file", "values", "text"),
    [
        (
            "one",
            "model_index.json",
            {"expand_timesteps": True},
            "a timestep for each token (expand_timesteps, Wan 2.2 TI2V-5B) is not supported; "
            + USE,
        ),
        (
            "one",
            "transformer/config.json",
            {"added_kv_proj_dim": 24},
            "its transformer is conditioned on an image (added_kv_proj_dim = 24, in_channels = 16 "
            f"for 16 of the VAE), which is not supported; {USE}",
        ),
        (
            "one",
            "transformer/config.json",
            {"in_channels": 36},
            "its transformer is conditioned on an image (added_kv_proj_dim = None, in_channels = "
            f"36 for 16 of the VAE), which is not supported; {USE}",
        ),
        (
            "two",
            "model_index.json",
            {"transformer": [None, None]},
            "model_index.json has no 'transformer', which denoises from pure noise on; " + USE,
        ),
        (
            "one",
            "model_index.json",
            {"boundary_ratio": 0.9},
            "boundary_ratio = 0.9 asks for a 'transformer_2' and model_index.json has none; copy "
            "or download the model again",
        ),
        (
            "one",
            "model_index.json",
            {"_class_name": "WanImageToVideoPipeline"},
            "a model of diffusers' WanImageToVideoPipeline, but model.backbone = 'wan' loads "
            "WanPipeline; give a model of that kind",
        ),
    ],
)
def test_models_of_another_kind(
    changed: Callable[..., Path], kind: str, file: str, values: dict[str, Any], text: str
) -> None:
    folder = changed(kind, file, **values)
    assert refusal(spec(folder)) == f"model.path = {str(folder)!r}: {text}"


def test_a_second_transformer_without_weights_is_missed(tiny_wan: TinyWan, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_wan("two"), folder)
    for file in (folder / "transformer_2").glob("*.safetensors"):
        file.unlink()
    with pytest.raises(
        UserError, match=r"the part 'transformer_2' is missing: no \*.safetensors in"
    ):
        model_folder.check_weights(spec(folder))
    registry.facts(spec(folder))  # which its configuration files say all the same


def test_an_optional_part_that_a_model_does_without_is_not_missed(tiny_wan: TinyWan) -> None:
    folder = tiny_wan("one")
    assert json.loads((folder / "model_index.json").read_text())["transformer_2"] == [None, None]
    assert model_folder.resolve(spec(folder)) == folder


@pytest.mark.parametrize("kind", ["one", "two"])
def test_shapes_alone_need_no_weights(tiny_wan: TinyWan, kind: str) -> None:
    """On the meta device, where a plan looks up what a forward costs."""
    pipeline = PipelineSpec(name="tiny", model=spec(tiny_wan(kind)))
    backbone = WanBackbone(pipeline, torch.device("meta"))
    clips = torch.empty((2, 3, 16, 4, 6), device="meta")
    text = {"prompt_embeds": torch.empty((2, 2, 512, 16), device="meta")}
    for timestep in (999, 10):
        output = backbone.guided(clips, timestep, text, 5.0, None)
        assert (output.shape, output.device.type) == (clips.shape, "meta")


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [
        ("wan2.1-1.3b", "one", (1, 61, 16, 60, 104)),
        ("wan2.1-14b", "one", (1, 61, 16, 90, 160)),
        ("wan2.2-a14b", "two", (1, 61, 16, 90, 160)),
    ],
)
def test_the_pipelines_fit_models_of_their_kind(
    tiny_wan: TinyWan, name: str, kind: str, shape: tuple[int, ...]
) -> None:
    pipeline = load_pipeline(name, [("model.path", str(tiny_wan(kind)))])
    job = build_job(pipeline, "a red ball", seed=0)
    facts = registry.facts(job.pipeline.model)
    assert facts.window_size == 21
    assert facts.latents_shape(pipeline.video.num_frames) == shape
    assert pipeline.sampling.negative_prompt in EXAMPLE_DOC_STRING
    assert (pipeline.sampling.guidance_scale_2 is None) == (kind == "one")


@pytest.mark.parametrize("kind", ["one", "two"])
def test_every_transformer_is_optimized(tiny_wan: TinyWan, kind: str) -> None:
    optimize = {"layerwise_casting": "float8_e4m3fn"}
    pipeline = PipelineSpec(name="tiny", model=spec(tiny_wan(kind)), optimize=optimize)
    backbone = WanBackbone(pipeline, torch.device("cpu"))
    assert len(backbone.transformers) == (1 if kind == "one" else 2)
    for transformer in backbone.transformers:
        assert transformer.blocks[0].attn1.to_q.weight.dtype == torch.float8_e4m3fn
        assert transformer.dtype == torch.float32, "in which it computes"
    clips = torch.zeros((1, 3, 16, 4, 6))
    text = {"prompt_embeds": torch.zeros((1, 2, 512, 16))}
    with torch.inference_mode():
        for timestep in (999, 10):
            assert backbone.guided(clips, timestep, text, None, None).isfinite().all()
