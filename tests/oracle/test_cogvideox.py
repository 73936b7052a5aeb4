"""Oracle 1: at native length with GLC's features off, diffusers' own pipeline gives the latents."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline
from hypothesis import given
from hypothesis import strategies as st

from glc_ray.backbones import registry
from glc_ray.backbones.cogvideox_vae import CogVideoXFrameDecoder
from glc_ray.config import ModelSpec, SamplingSpec, VideoJob
from glc_ray.media.decode import stream_decode
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import ModelFacts, UserError
from glc_ray.sampler import LocalDenoiser, sample_job

PROMPT = "a red ball bounces over the meadow at day"
OFF = [("glc.global_path", False), ("glc.noise_reinit", False), ("glc.vmcr", False)]
POSITIONS = pytest.mark.parametrize("positions", ["sincos", "rotary", "1.5"])


def native_latents(
    model: str, seed: int, steps: int, guidance_scale: float, *overrides: tuple[str, Any]
) -> torch.Tensor:
    """Our loop on one native window."""
    settings = [("model.path", model), *OFF, *overrides]
    facts = registry.facts(load_pipeline("toyworld", settings).model)
    spec = load_pipeline(
        "toyworld",
        [
            *settings,
            ("video.num_frames", facts.num_frames(facts.window_size)),
            ("sampling.num_steps", steps),
            ("sampling.guidance_scale", guidance_scale),
            ("denoise.threads", torch.get_num_threads()),
        ],
    )
    job = VideoJob(prompt=PROMPT, seed=seed, pipeline=spec)
    return sample_job(job, LocalDenoiser.of(job, torch.device("cpu")))


def pipeline_of(folder: Path) -> CogVideoXPipeline:
    pipeline = CogVideoXPipeline.from_pretrained(folder).to(torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(
    pipeline: CogVideoXPipeline, seed: int, steps: int, guidance_scale: float, **options: Any
) -> Any:
    config = pipeline.transformer.config
    return pipeline(
        PROMPT,
        **{"num_frames": config.sample_frames, **options},
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        max_sequence_length=config.max_text_seq_length,
        generator=torch.Generator().manual_seed(seed),
    ).frames


def pipeline_latents(
    folder: Path, seed: int, steps: int, guidance_scale: float, **options: Any
) -> torch.Tensor:
    """diffusers' own, padding in front included (CogVideoX 1.5)."""
    pipeline = pipeline_of(folder)
    return run(pipeline, seed, steps, guidance_scale, output_type="latent", **options)


def test_embedded_model_equals_diffusers_pipeline() -> None:
    from tests.conftest import TOYWORLD

    ours = native_latents("package:toyworld", seed=3, steps=3, guidance_scale=5.0)
    assert torch.equal(ours, pipeline_latents(TOYWORLD, seed=3, steps=3, guidance_scale=5.0))


def test_every_number_of_steps_gives_that_many_timesteps(
    tiny_model: Callable[[str], Path],
) -> None:
    """Rounding gives diffusers' scheduler one more, at timestep -1, for 61 and others."""
    model = ModelSpec(path=str(tiny_model("sincos")))
    for num_steps in range(1, 1001):
        sampling = SamplingSpec(num_steps=num_steps)
        timesteps = registry.load_scheduler(model, sampling, torch.Generator()).timesteps
        assert len(timesteps) == num_steps
        assert min(timesteps) >= 0


@POSITIONS
@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_any_folder_equals_diffusers_pipeline(
    tiny_model: Callable[[str], Path], positions: str, guidance_scale: float, steps: int
) -> None:
    folder = tiny_model(positions)
    ours = native_latents(str(folder), seed=7, steps=steps, guidance_scale=guidance_scale)
    assert torch.equal(ours, pipeline_latents(folder, 7, steps, guidance_scale))


@pytest.mark.parametrize(
    ("positions", "clip_frames", "height", "width"),
    [
        ("sincos", 17, 24, 16),
        ("rotary", 17, 24, 16),
        ("rotary", 9, 8, 32),
        # Positions of 1.5 end at 16 x 24.
        ("1.5", 17, 8, 16),
        # An even number of latent frames, to which the pipeline adds none.
        ("1.5", 13, 16, 24),
    ],
)
def test_any_size_equals_diffusers_pipeline(
    tiny_model: Callable[[str], Path], positions: str, clip_frames: int, height: int, width: int
) -> None:
    folder = tiny_model(positions)
    size = {"height": height, "width": width}
    overrides = [(f"model.{side}", pixels) for side, pixels in size.items()]
    ours = native_latents(str(folder), 5, 2, 6.0, ("model.clip_frames", clip_frames), *overrides)
    assert ours.shape[-2:] == (height // 4, width // 4)
    assert torch.equal(ours, pipeline_latents(folder, 5, 2, 6.0, num_frames=clip_frames, **size))


def test_dynamic_guidance_equals_diffusers_pipeline(tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model("rotary")
    dynamic = ("sampling.dynamic_guidance", True)
    ours = native_latents(str(folder), 2, 5, 6.0, dynamic)
    assert torch.equal(ours, pipeline_latents(folder, 2, 5, 6.0, use_dynamic_cfg=True))
    assert not torch.allclose(ours, native_latents(str(folder), 2, 5, 6.0))


def test_dynamic_guidance_of_scale_1_is_off(tiny_model: Callable[[str], Path]) -> None:
    folder = tiny_model("sincos")
    ours = native_latents(str(folder), 2, 3, 1.0, ("sampling.dynamic_guidance", True))
    assert torch.equal(ours, pipeline_latents(folder, 2, 3, 1.0, use_dynamic_cfg=True))
    assert torch.equal(ours, native_latents(str(folder), 2, 3, 1.0))


class TestPatchesOfTwoFrames:
    """CogVideoX 1.5: odd latent frames for the VAE, and one in front that makes them even."""

    FACTS = ModelFacts(
        window_size=22,
        temporal_ratio=4,
        spatial_ratio=8,
        latent_channels=16,
        height=768,
        width=1360,
        odd_latent_frames=True,
        leading_latent_frames=1,
    )

    def test_facts(self, tiny_model: Callable[[str], Path]) -> None:
        facts = registry.facts(ModelSpec(path=str(tiny_model("1.5"))))
        # 9 frames are 3 latent frames, to which the pipeline adds one.
        assert (facts.window_size, facts.leading_latent_frames) == (4, 1)
        full = registry.facts(ModelSpec(path=str(tiny_model("1.5")), clip_frames=81))
        assert full.window_size == self.FACTS.window_size

    def test_of_the_native_clip(self) -> None:
        assert self.FACTS.num_latent_frames(81) == 22
        assert self.FACTS.num_frames(22) == 81
        assert self.FACTS.latents_shape(81) == (1, 22, 16, 96, 170)

    def test_frames_are_those_of_diffusers_pipeline(
        self, tiny_model: Callable[[str], Path]
    ) -> None:
        """The latent frame in front is denoised and never decoded."""
        folder = tiny_model("1.5")
        pipeline = pipeline_of(folder)
        facts = registry.facts(ModelSpec(path=str(folder)))
        latents = native_latents(str(folder), 4, 2, 6.0)[:, facts.leading_latent_frames :]
        decoder = CogVideoXFrameDecoder(pipeline.vae, tiling=False)
        frames = np.concatenate(list(stream_decode(decoder, latents)))
        expected = run(pipeline, 4, 2, 6.0, output_type="pil")[0]
        assert len(expected) == 9
        np.testing.assert_array_equal(frames, np.stack([np.asarray(image) for image in expected]))

    @given(st.integers(min_value=0, max_value=1000))
    def test_whole_patches_at_every_length(self, k: int) -> None:
        num_frames = 4 * k + 1
        num_latent_frames = self.FACTS.num_latent_frames(num_frames)
        assert num_latent_frames % 2 == 0
        # The decoder gives as many, or the rest of a batch of two latent frames more.
        assert self.FACTS.num_frames(num_latent_frames) - num_frames in (0, 4)

    @pytest.mark.parametrize("method", ["glc", "gen_l_video"])
    def test_windows_may_begin_at_odd_frames(
        self, tiny_model: Callable[[str], Path], method: str
    ) -> None:
        spec = load_pipeline(
            "toyworld",
            [
                ("model.path", str(tiny_model("1.5"))),
                ("method", method),
                (f"{method}.stride", 1),
                ("video.num_frames", 25),
                ("sampling.num_steps", 1),
            ],
        )
        job = VideoJob(prompt=PROMPT, pipeline=spec)
        latents = sample_job(job, LocalDenoiser.of(job, torch.device("cpu")))
        assert latents.shape == (1, 8, 4, 4, 6)
        assert torch.isfinite(latents).all()


@pytest.mark.parametrize(
    ("positions", "key", "value", "text"),
    [
        ("sincos", "clip_frames", 10, "must be 4k+1; the nearest are 9 and 13"),
        ("sincos", "height", 20, "must be a multiple of 8 pixels; the nearest are 16 and 24"),
        ("rotary", "width", 3, "must be a multiple of 8 pixels; the nearest is 8"),
        ("1.5", "width", 32, "this model has positions for 24 pixels; give no more than that"),
    ],
)
def test_sizes_that_the_model_cannot_have(
    tiny_model: Callable[[str], Path], positions: str, key: str, value: int, text: str
) -> None:
    with pytest.raises(UserError) as error:
        registry.facts(ModelSpec(path=str(tiny_model(positions)), **{key: value}))
    assert str(error.value) == f"model.{key} = {value}: {text}"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"ofs_embed_dim": 8}, "an image-to-video model (ofs_embed_dim = 8 in "),
        ({"in_channels": 8}, "an image-to-video model (in_channels = 8 in "),
        (
            {"use_learned_positional_embeddings": True},
            "an image-to-video model (use_learned_positional_embeddings = True in ",
        ),
        ({"patch_size_t": 3}, "patches span 3 latent frames (patch_size_t), and 1 or 2 are "),
    ],
)
def test_models_of_other_kinds(
    tiny_model: Callable[[str], Path], tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("rotary"), folder)
    config = folder / "transformer" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))
    with pytest.raises(UserError) as error:
        registry.facts(ModelSpec(path=str(folder)))
    assert str(error.value).startswith(f"model.path = {str(folder)!r}: {text}")
