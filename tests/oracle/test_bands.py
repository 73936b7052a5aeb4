"""The last step, band by band as windows arrive, is the last step on the whole, bit for bit.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from glc_ray.backbones import scheduler as schedulers
from glc_ray.config import METHODS, ModelSpec, SamplingSpec, VideoJob
from glc_ray.core import vmcr
from glc_ray.core.bands import bands
from glc_ray.core.noise import SeededNoise
from glc_ray.methods import registry as methods
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import (
    Method,
    ModelFacts,
    NoiseScheduler,
    SchedulerState,
    StepPlan,
    StepResult,
    Window,
)
from glc_ray.sampler import OnFinal, gather_clips, sample, torch_threads
from tests.oracle.test_resume import CASES
from tests.tiny_schedulers import MakeModel, cogvideox, sampling

NUM_STEPS = 4
TOYWORLD = ModelSpec(path="package:toyworld")
FACTS = ModelFacts(
    window_size=7,
    temporal_ratio=4,
    spatial_ratio=8,
    latent_channels=4,
    height=64,
    width=96,
    capabilities=frozenset(
        {"long_clips", "anchor_attention", "spectral_attention", "windowed_attention"}
    ),
)
DRAWS_NOISE = (
    {"algorithm_type": "sde-dpmsolver++"},
    {"stochastic_sampling": True},
)


class _InOnePiece:
    """A noise scheduler that keeps silent about what it could do."""

    ends_framewise = False

    def __init__(self, scheduler: NoiseScheduler) -> None:
        self._scheduler = scheduler
        self.timesteps = scheduler.timesteps

    def step(self, prediction: Tensor, step_index: int, latents: Tensor) -> StepResult:
        return self._scheduler.step(prediction, step_index, latents)

    def of_frames(self, frames: slice) -> NoiseScheduler:
        raise AssertionError("it is stepped on the whole")

    def state(self) -> SchedulerState:
        return self._scheduler.state()

    def restore(self, state: SchedulerState) -> None:
        self._scheduler.restore(state)


class _StandIn:
    """A denoiser whose windows tell of themselves: each has a drift of its own."""

    def __init__(self, on_window: Callable[[StepPlan, Window], None] | None = None) -> None:
        self._on_window = on_window or (lambda plan, window: None)

    def denoise(self, latents_BFCHW: Tensor, plan: StepPlan) -> Iterator[tuple[Window, Tensor]]:
        for window in plan.windows:
            self._on_window(plan, window)
            clip = gather_clips(latents_BFCHW, [window])
            seed = 1000 * plan.step_index + window.index
            drift = torch.randn(clip.shape, generator=torch.Generator().manual_seed(seed))
            yield window, torch.tanh(clip) + 0.3 * drift


def job_of(method: str, num_latent_frames: int, **options: Any) -> VideoJob:
    given = [("video.num_frames", 4 * num_latent_frames - 3), *options.items()]
    return VideoJob(
        prompt="a", seed=3, pipeline=load_pipeline("toyworld", [("method", method), *given])
    )


def method_of(job: VideoJob) -> Method:
    return methods.create(job, FACTS)


def both(
    method: Method, model: ModelSpec, spec: SamplingSpec, length: int, on_final: OnFinal
) -> tuple[Tensor, Tensor]:
    """The latents of a video, and those that a last step on the whole gives."""
    results = []
    for kind in (lambda one: one, _InOnePiece):
        noise = SeededNoise(3)
        scheduler = kind(schedulers.load(model, spec, noise.generator))
        latents = method.initial_noise(FACTS.latents_shape(4 * length - 3), noise)
        with torch_threads(1):
            results.append(
                sample(
                    latents,
                    method=method,
                    scheduler=scheduler,
                    denoiser=_StandIn(),
                    on_final=on_final if kind is not _InOnePiece else None,
                )
            )
    return results[0], results[1]


GLC_OPTIONS: list[dict[str, Any]] = [
    {"glc.vmcr.weight": 0.01},
    {"glc.vmcr": False},
    {"glc.global_path": False},
    {"glc.local_path": False},
    {"glc.noise_reinit": False, "glc.gamma.gamma0": 0.5},
    {"glc.stride": 7},
]
METHOD_CASES = [
    *(("glc", options) for options in GLC_OPTIONS),
    *((name, {}) for name in METHODS if name != "glc"),
    ("freenoise", {"freenoise.level": "prediction"}),
]


@pytest.mark.parametrize(("method", "options"), METHOD_CASES)
@pytest.mark.parametrize("length", [8, 9, 37])
def test_every_method(method: str, options: dict[str, Any], length: int) -> None:
    handed: list[tuple[int, Tensor]] = []
    chosen = method_of(job_of(method, length, **options))
    spec = SamplingSpec(num_steps=NUM_STEPS)
    latents, expected = both(chosen, TOYWORLD, spec, length, lambda *band: handed.append(band))
    assert torch.equal(latents, expected)
    assert [start for start, _ in handed] == list(range(0, length, 8))
    assert torch.equal(torch.cat([band for _, band in handed], dim=1), latents)


@pytest.mark.parametrize(("own", "name", "options"), CASES)
def test_every_scheduler_is_what_it_is_declared_to_be(
    model_of: MakeModel, own: Any, name: str, options: dict[str, Any]
) -> None:
    """A last step is the same in bands; some draw noise, which has no weight in the last."""
    model, spec = model_of(own), sampling(name, NUM_STEPS, **options)
    generator = torch.Generator().manual_seed(2)
    scheduler = schedulers.load(model, spec, generator)
    before = generator.get_state()
    draws = name == "CogVideoXDPMScheduler" or options in DRAWS_NOISE
    assert scheduler.ends_framewise
    chosen = method_of(job_of("glc", 25, **{"glc.vmcr.weight": 0.01}))
    starts: list[int] = []
    latents, expected = both(chosen, model, spec, 25, lambda start, _: starts.append(start))
    assert torch.equal(latents, expected)
    assert starts == [0, 8, 16, 24]
    shape = FACTS.latents_shape(97)
    sample(torch.ones(shape), method=chosen, scheduler=scheduler, denoiser=_StandIn())
    assert torch.equal(generator.get_state(), before) is not draws


@pytest.mark.parametrize(
    ("own", "name", "options"),
    [
        (cogvideox(), "CogVideoXDPMScheduler", {"set_alpha_to_one": False}),
        (
            cogvideox(),
            "DPMSolverMultistepScheduler",
            {"algorithm_type": "sde-dpmsolver++", "final_sigmas_type": "sigma_min"},
        ),
    ],
)
def test_noise_that_stays_in_the_last_step_is_that_of_all_frames(
    model_of: MakeModel, own: Any, name: str, options: dict[str, Any]
) -> None:
    model, spec = model_of(own), sampling(name, NUM_STEPS, **options)
    assert not schedulers.load(model, spec, torch.Generator()).ends_framewise
    chosen = method_of(job_of("glc", 25))
    starts: list[int] = []
    latents, expected = both(chosen, model, spec, 25, lambda start, _: starts.append(start))
    assert torch.equal(latents, expected)
    assert starts == [0]


@pytest.mark.parametrize("start_step", [0, NUM_STEPS - 1])
def test_bands_are_handed_on_while_later_windows_are_missing(start_step: int) -> None:
    """After a local window all bands are final that later ones and refinement leave alone."""
    method = method_of(job_of("glc", 37))
    seen: list[tuple[int, int]] = []
    starts: list[int] = []

    def asked(plan: StepPlan, window: Window) -> None:
        if window.path == "local" and plan.step_index == NUM_STEPS - 1:
            seen.append((window.frames[0], len(starts)))
        else:
            assert starts == [], "not before the last step, nor on the global path"

    scheduler = schedulers.load(TOYWORLD, SamplingSpec(num_steps=NUM_STEPS), torch.Generator())
    sample(
        torch.ones(FACTS.latents_shape(145)),
        method=method,
        scheduler=scheduler,
        denoiser=_StandIn(asked),
        start_step=start_step,
        on_final=lambda start, _: starts.append(start),
    )
    # What is final when a window is asked for are the frames before it.
    assert seen == [
        (first, sum(stop + vmcr.REACH <= first for stop in (8, 16, 24, 32))) for first, _ in seen
    ]
    assert seen[-1] == (30, 3)
    assert starts == [0, 8, 16, 24, 32]


def test_a_prediction_that_is_not_finite_stops_the_video_where_it_is() -> None:
    starts: list[int] = []

    class Broken(_StandIn):
        def denoise(self, latents: Tensor, plan: StepPlan) -> Iterator[tuple[Window, Tensor]]:
            for window, prediction in super().denoise(latents, plan):
                is_last = window == plan.windows[-1] and plan.step_index == NUM_STEPS - 1
                yield window, prediction.log() if is_last else prediction

    scheduler = schedulers.load(TOYWORLD, SamplingSpec(num_steps=NUM_STEPS), torch.Generator())
    with pytest.raises(FloatingPointError, match=r"step 3 \(timestep .*\): the model's prediction"):
        sample(
            torch.ones(FACTS.latents_shape(145)),
            method=method_of(job_of("glc", 37)),
            scheduler=scheduler,
            denoiser=Broken(),
            on_final=lambda start, _: starts.append(start),
        )
    assert starts == [0, 8, 16]


@pytest.mark.parametrize("chunk_frames", [3, 4, 7, 10, 12, 100])
def test_refinement_of_bands_is_that_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, chunk_frames: int
) -> None:
    """Whatever lies where: borders of bands, and of the chunks that bound memory."""
    monkeypatch.setattr(vmcr, "_CHUNK_ELEMENTS", chunk_frames * 16 * 8 * 12)
    refine_in_bands((16, 8, 12), 37)


@pytest.mark.slow
@pytest.mark.parametrize("picture", [(16, 60, 90), (16, 90, 160), (48, 44, 80)])
def test_refinement_of_bands_of_the_models_own_pictures(picture: tuple[int, int, int]) -> None:
    """CogVideoX, 1.5 and Wan 2.2, whose chunks are about as long as a band or shorter."""
    refine_in_bands(picture, 21)


def refine_in_bands(picture: tuple[int, int, int], length: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn((1, length, *picture), generator=generator)
    whole = vmcr.gradient(x0)
    parts = bands(length, vmcr.REACH)
    for band in parts:
        part = vmcr.gradient(x0[:, band.needs], first_frame=band.needs.start)
        assert torch.equal(part[:, band.own], whole[:, band.frames])
    assert all(one.frames.stop == other.frames.start for one, other in pairwise(parts))
    assert (parts[0].frames.start, parts[-1].frames.stop) == (0, length)
