"""Memory and speed options against the same model without them, and refusals that say why."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from torch import Tensor
from torch._dynamo.utils import counters

from glc_ray.backbones import optimize
from glc_ray.backbones.cogvideox import CogVideoXBackbone
from glc_ray.config import OptimizeSpec
from glc_ray.methods import registry as methods
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError
from glc_ray.sampler import LocalDenoiser
from tests.tiny_denoiser import denoiser_of
from tests.tiny_wan import TinyWan

CPU = torch.device("cpu")
POSITIONS = pytest.mark.parametrize("positions", ["sincos", "rotary", "1.5"])
TinyModel = Callable[[str], Path]


def transformer_of(denoiser: LocalDenoiser) -> Any:
    assert isinstance(denoiser.backbone, CogVideoXBackbone)
    return denoiser.backbone.transformer


def has_hooks(denoiser: LocalDenoiser) -> bool:
    modules = transformer_of(denoiser).modules()
    return any(hasattr(module, "_diffusers_hook") for module in modules)


def first_step(denoiser: LocalDenoiser) -> Tensor:
    """The predictions of every window, anchors among them."""
    planner = denoiser.planner
    shape = planner.facts.latents_shape(33)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    plan = methods.create(planner.job, planner.facts).plan(0, 999)
    return torch.cat([prediction for _, prediction in denoiser.denoise(latents, plan)])


@POSITIONS
@pytest.mark.parametrize("storage", ["float8_e4m3fn", "float8_e5m2"])
def test_weights_kept_in_8_bits_are_rounded_and_nothing_else(
    tiny_model: TinyModel, positions: str, storage: str
) -> None:
    folder = tiny_model(positions)
    cast = denoiser_of(folder, ("optimize.layerwise_casting", storage))
    stored = dict(transformer_of(cast).named_parameters())
    rounded = denoiser_of(folder)
    exact = first_step(rounded)
    names = set()
    for name, weight in transformer_of(rounded).named_parameters():
        if stored[name].dtype == getattr(torch, storage):
            weight.data = weight.data.to(stored[name].dtype).to(weight.dtype)
            names.add(name)
    assert "transformer_blocks.1.attn1.to_k.weight" in names
    assert not any("norm" in name or "patch_embed" in name for name in names)
    assert torch.equal(first_step(cast), first_step(rounded))
    assert not torch.equal(first_step(cast), exact)


@POSITIONS
@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
@pytest.mark.parametrize("casting", ["off", "float8_e4m3fn"])
def test_weights_fetched_in_groups_are_the_same_weights(
    tiny_model: TinyModel, positions: str, level: str, casting: str
) -> None:
    """The CPU is both ends here: the hooks are diffusers', the copies go from it to itself."""
    options = ("optimize.layerwise_casting", casting)
    offloaded = denoiser_of(tiny_model(positions), options)
    optimize.offload_groups(transformer_of(offloaded), level, CPU)
    assert torch.equal(
        first_step(offloaded), first_step(denoiser_of(tiny_model(positions), options))
    )


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.mark.parametrize("positions", ["rotary", "1.5"])
def test_compiled_blocks_know_every_shape_once(tiny_model: TinyModel, positions: str) -> None:
    """Traced without code generation: no block and no step is compiled a second time, and the
    anchors' keys and values come through."""
    torch._dynamo.reset()
    denoiser = denoiser_of(tiny_model(positions))
    expected = first_step(denoiser)
    before = graphs()
    optimize.compile_blocks(transformer_of(denoiser), backend="eager")
    assert torch.equal(first_step(denoiser), expected)
    traced = graphs() - before
    assert traced > 0
    assert torch.equal(first_step(denoiser), expected)
    assert graphs() - before == traced


@pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile generates C++ for the CPU and needs g++"
)
def test_compiled_code_predicts_the_same(tiny_model: TinyModel) -> None:
    torch._dynamo.reset()
    one = ("denoise.batch_size", 1)
    expected = first_step(denoiser_of(tiny_model("rotary"), one))
    compiled = denoiser_of(tiny_model("rotary"), one, ("optimize.compile", True))
    before = graphs()
    torch.testing.assert_close(first_step(compiled), expected, rtol=1e-4, atol=1e-5)
    assert graphs() > before


def test_without_options_nothing_is_done(tiny_model: TinyModel) -> None:
    denoiser = denoiser_of(tiny_model("sincos"))
    assert not has_hooks(denoiser)
    parameters = transformer_of(denoiser).parameters()
    assert all(weight.dtype == torch.float32 for weight in parameters)


class TestCheck:
    def refusal(self, folder: Path, *, on_gpu: bool = False, **options: Any) -> str:
        with pytest.raises(UserError) as error:
            optimize.check(folder, OptimizeSpec(**options), on_gpu=on_gpu)
        return str(error.value)

    def test_groups_without_a_gpu(self, tiny_model: TinyModel) -> None:
        folder = tiny_model("sincos")
        assert self.refusal(folder, group_offload="leaf_level") == (
            "optimize.group_offload = 'leaf_level': a GPU fetches weights from main memory group "
            "by group, but denoisers compute on the CPU; leave the key out, or give them a GPU "
            "with --set resources.denoisers.num_gpus=1"
        )
        optimize.check(folder, OptimizeSpec(group_offload="leaf_level"), on_gpu=True)

    @pytest.mark.parametrize("name", ["flash2", "flash_hub"])
    def test_unknown_attention_backend(self, tiny_wan: TinyWan, name: str) -> None:
        """Nor one whose code comes from the hub."""
        text = self.refusal(tiny_wan("one"), attention_backend=name)
        assert text.startswith(f"optimize.attention_backend = {name!r}: diffusers ")
        assert ", flash, flash_varlen, flex, native, sage, " in text
        assert "_hub," not in text

    def test_model_that_follows_no_attention_backend(
        self, tiny_model: TinyModel, tiny_wan: TinyWan
    ) -> None:
        assert self.refusal(tiny_model("rotary"), attention_backend="native") == (
            "optimize.attention_backend = 'native': the attention of diffusers' "
            "CogVideoXTransformer3DModel is always torch's scaled_dot_product_attention, which "
            "chooses the fastest kernel by itself; leave the key out"
        )
        optimize.check(tiny_wan("one"), OptimizeSpec(attention_backend="native"), on_gpu=False)

    def test_attention_backend_that_is_not_installed(self, tiny_model: TinyModel) -> None:
        transformer = transformer_of(denoiser_of(tiny_model("sincos")))
        spec = OptimizeSpec(attention_backend="sage")
        with pytest.raises(UserError, match=r"backend = 'sage' cannot be used by this worker: .*"):
            optimize.optimize(transformer, spec, CPU, torch.float32)


class TestCaches:
    """Why ``optimize.cache`` is off: with windows, a cache gives one window another's features."""

    CONFIGS = pytest.mark.parametrize(
        "config",
        [
            FirstBlockCacheConfig(threshold=0.05),
            PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
            ),
        ],
        ids=["first block", "pyramid attention broadcast"],
    )

    @CONFIGS
    def test_result_depends_on_what_the_worker_did_before(
        self, tiny_model: TinyModel, config: Any
    ) -> None:
        transformer = transformer_of(denoiser_of(tiny_model("sincos")))
        generator = torch.Generator().manual_seed(0)
        clip = torch.randn(1, 3, 4, 4, 6, generator=generator)
        # Like a window that has moved on within the same scene.
        other = clip + 0.05 * torch.randn(clip.shape, generator=generator)
        text = torch.randn(1, 16, 64, generator=generator)

        @torch.inference_mode()
        def predict(clip: Tensor) -> Tensor:
            with transformer.cache_context("conditional"):
                return transformer(clip, text, torch.tensor([500]), return_dict=False)[0]

        exact = predict(other)
        transformer.enable_cache(config)
        assert torch.equal(predict(other), exact), "a worker that is new"
        transformer._reset_stateful_cache()
        predict(clip)
        assert not torch.allclose(predict(other), exact, rtol=1e-3, atol=1e-3)

    @pytest.mark.parametrize("name", ["first_block_cache", "pyramid_attention_broadcast"])
    def test_refused_with_the_reason(self, name: str) -> None:
        with pytest.raises(UserError) as error:
            load_pipeline("toyworld", [("optimize.cache", name)])
        assert str(error.value) == (
            f"pipeline toyworld: optimize.cache = {name!r} is not allowed: diffusers' caches keep "
            "features of the last forward within the transformer, for the same clip one step "
            "later; here windows move at every step and go to whichever worker is free, so a "
            "window would get another's features, and the video would depend on the number of "
            "workers; use off (Reuse of features from step to step: off is the only choice that is "
            "right with windows)"
        )

    def test_text_cache(self) -> None:
        with pytest.raises(UserError, match="tells prompts apart by where they lie in memory"):
            load_pipeline("toyworld", [("optimize.cache", "text_kv_cache")])


def test_bare_off_is_a_word() -> None:
    """YAML reads it as false."""
    keys = ("optimize.cache", "optimize.group_offload", "optimize.layerwise_casting")
    spec = load_pipeline("toyworld", [(key, False) for key in (*keys, "decode.tiling")])
    assert spec.optimize == OptimizeSpec()
    assert spec.decode.tiling == "off"
    assert load_pipeline("toyworld", [("decode.tiling", True)]).decode.tiling == "on"
