"""Oracle 5 for Wan: anchor attention without weight is diffusers' own attention processor."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.attention_dispatch import attention_backend
from torch import Tensor

from glc_ray.backbones.attention import AttentionMode, BlendAnchor, BlendFirst, RecordAnchor
from glc_ray.backbones.wan import WanBackbone
from glc_ray.backbones.wan_attention import _Rotation
from glc_ray.core.attention import SelfAttention
from glc_ray.protocols import AnchorAttention
from glc_ray.sampler import LocalDenoiser, sample_job, torch_threads
from tests.tiny_wan import TinyWan, tiny_wan_job

CPU = torch.device("cpu")
GUIDANCE = pytest.mark.parametrize("guidance_scale", [None, 5.0])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many as a denoiser has by default."""
    with torch_threads(1):
        yield


class TestAnchors:
    """Oracle 5."""

    @pytest.fixture
    def denoiser(self, tiny_wan: TinyWan) -> LocalDenoiser:
        return LocalDenoiser.of(tiny_wan_job(tiny_wan("one"), num_frames=33), CPU)

    @staticmethod
    def latents() -> Tensor:
        return torch.randn((1, 9, 16, 4, 6), generator=torch.Generator().manual_seed(0))

    @staticmethod
    def guided(
        denoiser: LocalDenoiser,
        clips: Tensor,
        guidance_scale: float | None,
        mode: AttentionMode | None,
    ) -> Tensor:
        backbone: Any = denoiser.backbone
        embeds = denoiser.conditioning.tensors["prompt_embeds"].expand(len(clips), -1, -1, -1)
        with torch.inference_mode():
            return backbone.guided(clips, 500, {"prompt_embeds": embeds}, guidance_scale, mode)

    @GUIDANCE
    def test_recording_and_a_weight_of_0_are_diffusers_own_processor(
        self, denoiser: LocalDenoiser, guidance_scale: float | None
    ) -> None:
        latents = self.latents()
        anchor, clips = latents[:, :3], torch.cat([latents[:, 3:6], latents[:, 6:]])
        stock_anchor = self.guided(denoiser, anchor, guidance_scale, None)
        stock_clips = self.guided(denoiser, clips, guidance_scale, None)
        record = RecordAnchor(on_cpu=False)
        assert torch.equal(self.guided(denoiser, anchor, guidance_scale, record), stock_anchor)
        branches = {"cond"} if guidance_scale is None else {"cond", "uncond"}
        assert set(record.states) == {
            f"{branch}/blocks.{block}.attn1.processor" for branch in branches for block in (0, 1)
        }
        for weight, literal in ((0.0, False), (1.0, True)):
            mode = BlendAnchor(record.states, AnchorAttention(weight, literal))
            assert torch.equal(self.guided(denoiser, clips, guidance_scale, mode), stock_clips)
        changed = BlendAnchor(record.states, AnchorAttention(0.1))
        blended = self.guided(denoiser, clips, guidance_scale, changed)
        assert not torch.allclose(blended, stock_clips, atol=1e-4)

    @GUIDANCE
    @pytest.mark.parametrize("weight", [0.1, 0.5, 1.0])
    @pytest.mark.parametrize("literal", [False, True])
    def test_clips_identical_to_the_anchor_are_unchanged_at_any_weight(
        self,
        denoiser: LocalDenoiser,
        guidance_scale: float | None,
        weight: float,
        literal: bool,
    ) -> None:
        anchor = self.latents()[:, :3]
        options = AnchorAttention(weight, literal)
        stock = self.guided(denoiser, anchor, guidance_scale, None)
        record = RecordAnchor(on_cpu=False)
        self.guided(denoiser, anchor, guidance_scale, record)
        kept = BlendAnchor(record.states, options)
        assert torch.equal(self.guided(denoiser, anchor, guidance_scale, kept), stock)
        three = torch.cat([anchor] * 3)
        along = self.guided(denoiser, three, guidance_scale, BlendFirst(3, options))
        # Close, since a matrix product rounds a row by its place in the batch.
        torch.testing.assert_close(along, self.guided(denoiser, three, guidance_scale, None))

    def test_anchor_that_rides_along_blends_as_one_that_is_kept(
        self, denoiser: LocalDenoiser
    ) -> None:
        """The same function of the clips; the batches differ, and so the last bits may."""
        latents, options = self.latents(), AnchorAttention(0.3)
        anchor, clips = latents[:, :3], torch.cat([latents[:, 3:6], latents[:, 6:]])
        record = RecordAnchor(on_cpu=True)
        self.guided(denoiser, anchor, 5.0, record)
        kept = self.guided(denoiser, clips, 5.0, BlendAnchor(record.states, options))
        three = torch.cat([anchor, clips])
        along = self.guided(denoiser, three, 5.0, BlendFirst(3, options))
        torch.testing.assert_close(along[1:], kept, rtol=1e-5, atol=1e-5)

    def test_a_long_video_with_all_of_glc(self, tiny_wan: TinyWan) -> None:
        """Three windows wide, two transformers; where the cache lies does not change a bit."""
        videos = {}
        for cache in ("device", "cpu", "recompute", None):
            job = tiny_wan_job(
                tiny_wan("two"),
                num_frames=33,
                sampling={"num_steps": 3, "guidance_scale": 4.0, "guidance_scale_2": 3.0},
                denoise={"batch_size": 2},
                glc={"abam": False if cache is None else {"weight": 0.3, "cache": cache}},
            )
            videos[cache] = sample_job(job, LocalDenoiser.of(job, CPU))
        assert videos[None].shape == (1, 9, 16, 4, 6)
        assert torch.equal(videos["device"], videos["cpu"])
        torch.testing.assert_close(videos["recompute"], videos["device"], rtol=1e-3, atol=1e-3)
        assert not torch.allclose(videos[None], videos["device"], atol=1e-2)


class TestAttentionLayers:
    @pytest.fixture
    def backbone(self, tiny_wan: TinyWan) -> WanBackbone:
        return WanBackbone(tiny_wan_job(tiny_wan("one")).pipeline, CPU)

    def run(self, backbone: WanBackbone, mode: AttentionMode | None) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        clips = torch.randn((2, 3, 16, 4, 6), generator=generator)
        text = {"prompt_embeds": torch.randn((2, 2, 512, 16), generator=generator)}
        with torch.inference_mode():
            return backbone.guided(clips, 500.5, text, 5.0, mode)

    def test_kernels_of_diffusers_backends(self, backbone: WanBackbone) -> None:
        """A backend that is set once the processors are installed is used by the changed path."""
        transformer, usual = backbone.transformer, self.run(backbone, None)
        # That names it for all models, to the end of the block; here the processors must know it.
        with attention_backend("native"):
            transformer.set_attention_backend("_native_math")
            with attention_backend("native"):
                stock, changed = self.run(backbone, None), self.run(backbone, Full())
        assert not torch.equal(stock, usual), "the kernels round alike: this test tells nothing"
        assert torch.equal(changed, stock)

    def test_backend_of_the_process_changes_no_bit(
        self, backbone: WanBackbone, tiny_wan: TinyWan
    ) -> None:
        """Another model's choice, or DIFFUSERS_ATTN_BACKEND on one machine of several."""
        usual = self.run(backbone, None), self.run(backbone, Full())
        with attention_backend("_native_math"):
            assert torch.equal(self.run(backbone, None), usual[0])
            assert torch.equal(self.run(backbone, Full()), usual[1])
            stock = WanTransformer3DModel.from_pretrained(tiny_wan("one"), subfolder="transformer")
            backbone.transformer = backbone.transformers[0] = stock
            assert not torch.equal(self.run(backbone, None), usual[0]), "the kernels round alike"

    def test_grid_is_that_of_the_tokens(self, backbone: WanBackbone) -> None:
        """Frames, rows and columns: patches are 1x2x2. Text is not among the tokens."""
        full = Full()
        self.run(backbone, full)
        assert len(full.seen) == 4, "two layers in two branches"
        for work in full.seen:
            assert (work.grid, work.num_text) == ((3, 2, 3), 0)
            assert work.key_BHSD.shape == (2, 2, 18, 12)

    def test_positions_begin_at_0_for_any_number_of_frames(self, backbone: WanBackbone) -> None:
        rope = backbone.transformer.rope
        tokens = torch.randn((1, 2, 12, 12), generator=torch.Generator().manual_seed(0))
        long = _Rotation(rope(torch.empty(1, 16, 3, 4, 6)), (3, 2, 3))
        short = _Rotation(rope(torch.empty(1, 16, 2, 4, 6)), (2, 2, 3))
        assert torch.equal(long(tokens, 2), short(tokens, 2))


class Full:
    """The model's own attention, through `SelfAttention`."""

    def __init__(self) -> None:
        self.seen: list[SelfAttention] = []

    def __call__(self, layer: str, work: SelfAttention) -> Tensor:
        self.seen.append(work)
        return work.full()
