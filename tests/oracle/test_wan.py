"""Oracles 1 and 5 for Wan: diffusers' own pipeline, and its own attention processor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, WanPipeline
from torch import Tensor

from glc_ray.backbones.attention import AttentionMode, BlendAnchor, BlendFirst, RecordAnchor
from glc_ray.backbones.wan import WanBackbone
from glc_ray.backbones.wan_attention import _Rotation
from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.core.attention import SelfAttention
from glc_ray.methods import registry as methods
from glc_ray.pipeline_file import validate
from glc_ray.protocols import AnchorAttention
from glc_ray.sampler import LocalDenoiser, gather_clips, sample_job, torch_threads

TinyWan = Callable[[str], Path]
PROMPT, NEGATIVE = "a red ball bounces over the meadow at day", "the sea at night"
PLAIN = {"global_path": False, "noise_reinit": False, "vmcr": False}
CPU = torch.device("cpu")

KINDS = pytest.mark.parametrize("kind", ["one", "two"])
GUIDANCE = pytest.mark.parametrize("guidance_scale", [None, 5.0])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As many as a denoiser has by default."""
    with torch_threads(1):
        yield


def job_of(folder: Path, *, num_frames: int = 9, seed: int = 7, **sections: Any) -> VideoJob:
    """A job of a tiny model, whose native clip is 9 frames of 32x48: 3 latents of 4x6."""
    clip = {"clip_frames": 9, "height": 32, "width": 48}
    pipeline = {
        "name": "tiny-wan",
        "video": {"num_frames": num_frames},
        **sections,
        "model": {"backbone": "wan", "path": str(folder), **clip, **sections.get("model", {})},
    }
    return VideoJob(
        prompt=PROMPT, seed=seed, pipeline=validate(PipelineSpec, pipeline, where="test")
    )


def pipeline_of(folder: Path, scheduler: str, **options: Any) -> WanPipeline:
    pipeline = WanPipeline.from_pretrained(folder, **options)
    if scheduler == "FlowMatchEulerDiscreteScheduler":
        shift = pipeline.scheduler.config.flow_shift
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_latents(pipeline: WanPipeline, sampling: dict[str, Any], seed: int = 7) -> Tensor:
    second = {key: value for key, value in sampling.items() if key == "guidance_scale_2"}
    return pipeline(
        PROMPT,
        NEGATIVE,
        num_frames=9,
        height=32,
        width=48,
        num_inference_steps=sampling["num_steps"],
        guidance_scale=sampling["guidance_scale"],
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
        **second,
    ).frames.transpose(1, 2)


@KINDS
@pytest.mark.parametrize(
    "scheduler", ["UniPCMultistepScheduler", "FlowMatchEulerDiscreteScheduler"]
)
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
@pytest.mark.parametrize("num_steps", [1, 4])
def test_native_length_equals_diffusers_pipeline(
    tiny_wan: TinyWan, kind: str, scheduler: str, guidance_scale: float, num_steps: int
) -> None:
    folder = tiny_wan(kind)
    sampling = {"num_steps": num_steps, "guidance_scale": guidance_scale}
    spec = {**sampling, "scheduler": scheduler, "negative_prompt": NEGATIVE}
    job = job_of(folder, sampling=spec, glc={**PLAIN, "abam": False})
    ours = sample_job(job, LocalDenoiser.of(job, CPU))
    assert torch.equal(ours, pipeline_latents(pipeline_of(folder, scheduler), sampling))


@pytest.mark.parametrize("guidance_scale_2", [None, 1.0, 3.0])
def test_the_low_noise_transformer_has_a_guidance_of_its_own(
    tiny_wan: TinyWan, guidance_scale_2: float | None
) -> None:
    folder = tiny_wan("two")
    sampling = {"num_steps": 4, "guidance_scale": 4.0, "guidance_scale_2": guidance_scale_2}
    spec = {**sampling, "negative_prompt": NEGATIVE}
    job = job_of(folder, sampling=spec, glc={**PLAIN, "abam": False})
    denoiser = LocalDenoiser.of(job, CPU)
    backbone: Any = denoiser.backbone
    calls = {"transformer": 0, "transformer_2": 0}

    def count(name: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            calls[name] += 1

        return hook

    for name in calls:
        getattr(backbone, name).register_forward_hook(count(name))
    ours = sample_job(job, denoiser)
    assert torch.equal(ours, pipeline_latents(pipeline_of(folder, "model"), sampling))
    assert calls == {"transformer": 4, "transformer_2": 4}, "two steps each, two branches a step"


def test_one_window_is_its_own_anchor(tiny_wan: TinyWan) -> None:
    folder = tiny_wan("two")
    sampling = {"num_steps": 4, "guidance_scale": 5.0}
    spec = {**sampling, "negative_prompt": NEGATIVE}
    job = job_of(folder, sampling=spec, glc={**PLAIN, "abam": {"weight": 0.5}})
    ours = sample_job(job, LocalDenoiser.of(job, CPU))
    assert torch.equal(ours, pipeline_latents(pipeline_of(folder, "model"), sampling))


@GUIDANCE
def test_prediction_in_half_precision_is_the_pipelines(
    tiny_wan: TinyWan, guidance_scale: float | None
) -> None:
    """Combined in bfloat16. (Latents then differ: the pipeline's scheduler rounds to it, too.)"""
    folder = tiny_wan("one")
    pipeline = pipeline_of(folder, "model", torch_dtype=torch.bfloat16)
    step, outputs = pipeline.scheduler.step, []

    def watched(output: Tensor, *arguments: Any, **options: Any) -> Any:
        outputs.append(output)
        return step(output, *arguments, **options)

    pipeline.scheduler.step = watched
    pipeline_latents(pipeline, {"num_steps": 1, "guidance_scale": guidance_scale or 1.0})
    spec = {"num_steps": 1, "guidance_scale": guidance_scale or 1.0, "negative_prompt": NEGATIVE}
    job = job_of(folder, sampling=spec, model={"dtype": "bfloat16"}, glc={**PLAIN, "abam": False})
    denoiser = LocalDenoiser.of(job, CPU)
    noise = torch.randn((1, 16, 3, 4, 6), generator=torch.Generator().manual_seed(7))
    (timestep,) = pipeline.scheduler.timesteps.tolist()
    plan = methods.create(job, denoiser.planner.facts).plan(0, timestep)
    ((_, ours),) = denoiser.denoise(noise.transpose(1, 2), plan)
    assert outputs[0].dtype == torch.bfloat16
    assert ours.dtype == torch.float32
    assert torch.equal(ours, outputs[0].transpose(1, 2).float())


class TestAnchors:
    """Oracle 5."""

    @pytest.fixture
    def denoiser(self, tiny_wan: TinyWan) -> LocalDenoiser:
        return LocalDenoiser.of(job_of(tiny_wan("one"), num_frames=33), CPU)

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
            job = job_of(
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
        return WanBackbone(job_of(tiny_wan("one")).pipeline, CPU)

    def run(self, backbone: WanBackbone, mode: AttentionMode | None) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        clips = torch.randn((2, 3, 16, 4, 6), generator=generator)
        text = {"prompt_embeds": torch.randn((2, 2, 512, 16), generator=generator)}
        with torch.inference_mode():
            return backbone.guided(clips, 500.5, text, 5.0, mode)

    def test_kernels_of_diffusers_backends(self, backbone: WanBackbone) -> None:
        """Set before the processors are installed or after, the changed path uses them too."""
        transformer = backbone.transformer
        try:
            transformer.set_attention_backend("_native_math")
            for name, processor in transformer.attn_processors.items():
                assert processor._attention_backend == "_native_math", name
            assert torch.equal(self.run(backbone, Full()), self.run(backbone, None))
        finally:
            transformer.reset_attention_backend()

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


def test_a_batch_gives_what_its_clips_give_alone(tiny_wan: TinyWan) -> None:
    """Up to rounding."""
    job = job_of(
        tiny_wan("one"),
        num_frames=33,
        denoise={"batch_size": 2},
        glc={"abam": False, "local_path": False},
    )
    denoiser = LocalDenoiser.of(job, CPU)
    latents = TestAnchors.latents()
    plan = methods.create(job, denoiser.planner.facts).plan(0, 500)
    batched = dict(denoiser.denoise(latents, plan))
    for window, prediction in batched.items():
        clip = gather_clips(latents, [window])
        embeds = denoiser.conditioning.tensors["prompt_embeds"]
        backbone: Any = denoiser.backbone
        with torch.inference_mode():
            alone = backbone.guided(clip, 500, {"prompt_embeds": embeds}, 6.0, None)
        torch.testing.assert_close(prediction, alone, rtol=1e-4, atol=1e-5)
