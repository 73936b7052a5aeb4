"""Oracle 3: where windows do not matter to the model, no method may change its result.

The model's prediction for a frame is a function of that frame alone, so whatever windows a method
plans, at any length, stride, shift and seed, the video is the one of a single window.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from glc_ray.backbones import registry as backbones
from glc_ray.config import METHODS, ModelSpec, SamplingSpec, VideoJob
from glc_ray.methods import registry as methods
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import ModelFacts, StepPlan, Window
from glc_ray.sampler import gather_clips, sample

NUM_STEPS = 3


class FrameByFrame:
    """A denoiser without a view of time: tanh of each value, and of the timestep."""

    def denoise(self, latents_BFCHW: Tensor, plan: StepPlan) -> Iterator[tuple[Window, Tensor]]:
        for window in plan.windows:
            clip = gather_clips(latents_BFCHW, [window])
            yield window, torch.tanh(1.3 * clip + plan.timestep / 1000)


def scheduler():
    model = ModelSpec(path="package:toyworld")
    return backbones.load_scheduler(model, SamplingSpec(num_steps=NUM_STEPS), torch.Generator())


def unwindowed(latents: Tensor) -> Tensor:
    steps = scheduler()
    for step_index, timestep in enumerate(steps.timesteps):
        prediction = torch.tanh(1.3 * latents + timestep / 1000)
        latents = steps.step(prediction, step_index, latents).prev_sample
    return latents


def facts(window_size: int, *, rotary: bool) -> ModelFacts:
    capabilities = {"long_clips", "anchor_attention", "spectral_attention"}
    return ModelFacts(
        window_size=window_size,
        temporal_ratio=4,
        spatial_ratio=8,
        latent_channels=2,
        height=16,
        width=24,
        capabilities=frozenset(capabilities | ({"windowed_attention"} if rotary else set())),
    )


@st.composite
def options(draw, window_size):
    """Settings of a job: a method and whatever its specification allows for this window."""
    method = draw(st.sampled_from(METHODS))
    stride = st.integers(1, window_size)
    match method:
        case "glc":
            path = st.sampled_from([(True, True), (True, False), (False, True)])
            global_path, local_path = draw(path)
            given = {
                "global_path": global_path,
                "local_path": local_path,
                "stride": draw(stride | st.none()),
                "gamma.preset": draw(st.sampled_from(["paper", "annealed"])),
                "gamma.gamma0": draw(st.none() | st.floats(0, 1)),
                "abam": draw(st.booleans()),
                "noise_reinit": False,
                "vmcr": False,
            }
        case "gen_l_video":
            given = {"stride": draw(stride | st.none())}
        case "freenoise":
            levels = st.sampled_from(["auto", "attention", "prediction"])
            given = {"stride": draw(stride), "level": draw(levels)}
        case "freelong":
            given = {"radius": draw(st.integers(1, 99))}
        case "direct":
            given = {}
    return method, [(f"{method}.{key}", value) for key, value in given.items()]


@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_no_method_changes_what_does_not_depend_on_windows(data: st.DataObject) -> None:
    window_size = data.draw(st.integers(1, 16), label="L")
    length = data.draw(st.integers(window_size, 70), label="K")
    seed = data.draw(st.integers(0, 2**63 - 1), label="seed")
    method, given_options = data.draw(options(window_size), label="method")
    spec = load_pipeline(
        "toyworld",
        [("method", method), ("video.num_frames", 4 * (length - 1) + 1), *given_options],
    )
    job = VideoJob(prompt="x", seed=seed, pipeline=spec)
    model = facts(window_size, rotary=data.draw(st.booleans(), label="rotary"))
    latents = torch.randn((1, length, 2, 2, 3), generator=torch.Generator().manual_seed(0))
    result = sample(
        latents,
        method=methods.create(job, model),
        scheduler=scheduler(),
        denoiser=FrameByFrame(),
    )
    # Averages of equal float32 values round: 1e-7 a step, of latents of about 1.
    torch.testing.assert_close(result, unwindowed(latents), rtol=0, atol=5e-6)
