"""The baselines: noise, windows, what they ask of a model and what they refuse."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glc_ray.config import METHODS, FreeLongSpec, FreeNoiseSpec, GenLVideoSpec, VideoJob
from glc_ray.core.fusion import check_plan
from glc_ray.core.noise import SeededNoise, shuffled_noise
from glc_ray.job import build_job
from glc_ray.methods import registry
from glc_ray.methods.direct import Direct
from glc_ray.methods.freelong import FreeLong
from glc_ray.methods.freenoise import FreeNoise
from glc_ray.methods.gen_l_video import GenLVideo
from glc_ray.methods.glc import GLC
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import (
    Method,
    ModelFacts,
    SpectralAttention,
    StepResult,
    UserError,
    WindowedAttention,
)

SINCOS = ModelFacts(
    window_size=13,
    temporal_ratio=4,
    spatial_ratio=8,
    latent_channels=16,
    height=480,
    width=720,
    capabilities=frozenset({"long_clips", "anchor_attention", "spectral_attention"}),
)
ROTARY = replace(SINCOS, capabilities=SINCOS.capabilities | {"windowed_attention"})
SHAPE = (1, 37, 2, 4, 6)


def direct(length: int = 37, facts: ModelFacts = SINCOS) -> Direct:
    return Direct(num_latent_frames=length, facts=facts)


def gen_l_video(length: int = 37, facts: ModelFacts = SINCOS, **options: Any) -> GenLVideo:
    return GenLVideo(num_latent_frames=length, facts=facts, options=GenLVideoSpec(**options))


def freenoise(length: int = 37, facts: ModelFacts = SINCOS, **options: Any) -> FreeNoise:
    return FreeNoise(num_latent_frames=length, facts=facts, options=FreeNoiseSpec(**options))


def freelong(length: int = 37, facts: ModelFacts = SINCOS, **options: Any) -> FreeLong:
    return FreeLong(num_latent_frames=length, facts=facts, options=FreeLongSpec(**options))


EVERY = pytest.mark.parametrize("make", [direct, gen_l_video, freenoise, freelong])


def of_window(window_size: int) -> ModelFacts:
    return replace(SINCOS, window_size=window_size)


def starts(method: Method) -> list[int]:
    return [window.frames[0] for window in method.plan(0, 999).windows]


@EVERY
def test_plans_are_one_path_the_same_at_every_step(make: Any) -> None:
    method: Method = make()
    first, later = method.plan(0, 999), method.plan(7, 120.5)
    assert (later.step_index, later.timestep) == (7, 120.5)
    assert first.paths == later.paths
    (path,) = first.paths
    assert path.share == 1
    assert {window.path for window in path.windows} == {path.name}
    assert [window.index for window in path.windows] == list(range(len(path.windows)))


@EVERY
def test_update_leaves_the_step_as_it_is(make: Any) -> None:
    latents = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    result = StepResult(prev_sample=latents, pred_original_sample=-latents, signal_scale=0.5)
    assert make().update(result) is latents


@pytest.mark.parametrize("make", [direct, gen_l_video, freelong])
def test_noise_is_plain(make: Any) -> None:
    plain = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    assert torch.equal(make().initial_noise(SHAPE, SeededNoise(5)), plain)


@pytest.mark.parametrize("level", ["attention", "prediction"])
def test_freenoise_shuffles_by_its_chunk(level: str) -> None:
    for chunk, size in ((None, 4), (2, 2)):
        noise = freenoise(chunk=chunk, level=level).initial_noise(SHAPE, SeededNoise(5))
        assert torch.equal(noise, shuffled_noise(SHAPE, 13, SeededNoise(5), chunk_size=size))


@pytest.mark.parametrize("make", [direct, freelong])
@pytest.mark.parametrize("length", [13, 37])
def test_one_window_over_the_whole_video(make: Any, length: int) -> None:
    (window,) = make(length).plan(0, 999).windows
    assert window.frames == tuple(range(length))
    assert window.weights == (1.0,) * length


def test_gen_l_video_moves_by_half_a_window_and_ends_with_the_video() -> None:
    assert starts(gen_l_video()) == [0, 6, 12, 18, 24]
    assert starts(gen_l_video(38)) == [0, 6, 12, 18, 24, 25]
    assert starts(gen_l_video(stride=9)) == [0, 9, 18, 24]
    assert starts(gen_l_video(4, of_window(1))) == [0, 1, 2, 3]
    assert {window.weights for window in gen_l_video().plan(0, 999).windows} == {(1.0,) * 13}


def test_freenoise_moves_by_4_with_weights_that_rise_to_the_middle() -> None:
    assert starts(freenoise()) == [0, 4, 8, 12, 16, 20, 24]
    assert starts(freenoise(38, stride=13)) == [0, 13, 25]
    (weights,) = {window.weights for window in freenoise().plan(0, 999).windows}
    assert weights == (1, 2, 3, 4, 5, 6, 7, 6, 5, 4, 3, 2, 1)


def test_freenoise_default_stride_fits_into_windows_of_less_than_4() -> None:
    assert starts(freenoise(9, of_window(3))) == [0, 3, 6]
    assert starts(freenoise(9, of_window(3), stride=1)) == list(range(7))
    assert freenoise(9, of_window(3)).initial_noise((1, 9, 2, 4, 6), SeededNoise(5)).shape[1] == 9


@given(data=st.data(), make=st.sampled_from([gen_l_video, freenoise]))
@settings(max_examples=200, deadline=None)
def test_windows_cover_every_frame_whatever_the_length(data: st.DataObject, make: Any) -> None:
    window_size = data.draw(st.integers(1, 20))
    length = data.draw(st.integers(window_size, 150))
    given_options = {}
    if data.draw(st.booleans()):
        given_options["stride"] = data.draw(st.integers(1, window_size))
    plan = make(length, of_window(window_size), **given_options).plan(0, 999)
    check_plan(plan, length)
    for window in plan.windows:
        assert window.frames == tuple(range(window.frames[0], window.frames[0] + window_size))
        assert min(window.weights) > 0


@pytest.mark.parametrize(
    ("level", "facts", "within_attention"),
    [
        ("auto", SINCOS, False),
        ("auto", ROTARY, True),
        ("auto", replace(ROTARY, max_clip_frames=37), True),
        ("auto", replace(ROTARY, max_clip_frames=36), False),
        ("auto", replace(ROTARY, capabilities=frozenset({"windowed_attention"})), False),
        ("attention", SINCOS, True),
        ("prediction", ROTARY, False),
    ],
)
def test_freenoise_level(level: str, facts: ModelFacts, within_attention: bool) -> None:
    method = freenoise(facts=facts, level=level, stride=5)
    (path,) = method.plan(0, 999).paths
    if within_attention:
        assert path.attention == WindowedAttention(window_size=13, stride=5)
        assert [window.frames for window in path.windows] == [tuple(range(37))]
        assert method.requires == {"long_clips", "windowed_attention"}
    else:
        assert path.attention is None
        assert len(path.windows) == 6
        assert method.requires == frozenset()


def test_freelong_asks_for_its_attention() -> None:
    (path,) = freelong(radius=5, cutoff=0.4).plan(0, 999).paths
    assert path.attention == SpectralAttention(radius=5, cutoff=0.4)


def test_what_they_ask_of_a_model() -> None:
    assert direct().requires == {"long_clips"}
    assert gen_l_video().requires == frozenset()
    assert freelong().requires == {"long_clips", "spectral_attention"}


SHORT = replace(ROTARY, max_clip_frames=36)
TOO_LONG = "one forward would span 37 latent frames, and the model's positions end at 36"


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: direct(facts=SHORT), TOO_LONG),
        (lambda: freelong(facts=SHORT), TOO_LONG),
        (lambda: freenoise(facts=SHORT, level="attention"), TOO_LONG),
        (lambda: gen_l_video(12), "num_latent_frames is 12: it must be at least"),
        (lambda: gen_l_video(stride=14), "gen_l_video.stride = 14: must be between 1 and 13, the"),
        (lambda: freenoise(12), "num_latent_frames is 12: it must be at least"),
        (lambda: freenoise(12, ROTARY), "num_latent_frames is 12: it must be at least"),
        (lambda: freenoise(stride=14), "freenoise.stride = 14: must be between 1 and 13, the"),
        (lambda: freenoise(facts=ROTARY, stride=14), "freenoise.stride = 14: must be between 1"),
        (lambda: freenoise(chunk=14), "freenoise.chunk = 14: must be between 1 and 13, the"),
    ],
)
def test_nonsense_is_refused_before_any_work(call: Any, text: str) -> None:
    with pytest.raises((UserError, ValueError), match=text):
        call()


def test_every_method_of_the_specification_is_built_with_its_options() -> None:
    built = {}
    options = [
        ("video.num_frames", 145),
        ("glc.stride", 3),
        ("gen_l_video.stride", 9),
        ("freenoise.stride", 5),
        ("freelong.radius", 2),
    ]
    for name in METHODS:
        spec = load_pipeline("toyworld", [("method", name), *options])
        built[name] = registry.create(VideoJob(prompt="x", pipeline=spec), ROTARY)
    assert {name: type(method) for name, method in built.items()} == {
        "glc": GLC,
        "direct": Direct,
        "gen_l_video": GenLVideo,
        "freenoise": FreeNoise,
        "freelong": FreeLong,
    }
    assert getattr(built["glc"], "stride", None) == 3
    assert built["direct"].plan(0, 999).windows[0].frames == tuple(range(37))
    assert starts(built["gen_l_video"]) == [0, 9, 18, 24]
    assert built["freenoise"].plan(0, 999).paths[0].attention == WindowedAttention(13, 5)
    assert built["freelong"].plan(0, 999).paths[0].attention == SpectralAttention(2, 0.25)


@pytest.mark.parametrize(
    ("method", "option", "text"),
    [
        (
            "freenoise",
            ("freenoise.level", "attention"),
            "freenoise.level = 'attention': toyworld adds positions at its input, so windows "
            "cannot have their own within attention; use auto or prediction",
        ),
        (
            "freenoise",
            ("freenoise.stride", 8),
            "freenoise.stride = 8: must be between 1 and 7, the model's window in latent frames, "
            "or windows would leave frames uncovered; leave it out for 4",
        ),
        (
            "gen_l_video",
            ("gen_l_video.stride", 8),
            "gen_l_video.stride = 8: must be between 1 and 7, the model's window in latent frames, "
            "or windows would leave frames uncovered; leave it out for half a window",
        ),
    ],
)
def test_what_the_embedded_model_cannot_do_is_the_users_to_mend(
    method: str, option: tuple[str, object], text: str
) -> None:
    spec = load_pipeline("toyworld", [("method", method), option])
    with pytest.raises(UserError) as error:
        build_job(spec, "a red ball", seed=0)
    assert str(error.value) == text
