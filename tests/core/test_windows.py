"""Windows: Eq. 4–7, and that every frame is covered whatever the length."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glc_ray.core.windows import (
    check_clip,
    global_windows,
    local_windows,
    random_shift,
    triangle_weights,
)


@st.composite
def layouts(draw):
    """(K, L, s, J) with K ≥ L, 1 ≤ s ≤ L, 0 ≤ J < s."""
    window_size = draw(st.integers(1, 20))
    num_latent_frames = draw(st.integers(window_size, 150))
    stride = draw(st.integers(1, window_size))
    return num_latent_frames, window_size, stride, draw(st.integers(0, stride - 1))


def starts(windows):
    return [window.frames[0] for window in windows]


def test_global_windows_are_dilated_and_padded_with_the_last_frame():
    windows = global_windows(8, 3, first_index=5)
    assert [window.frames for window in windows] == [(0, 3, 6), (1, 4, 7), (2, 5, 7)]
    assert [window.weights for window in windows] == [(1, 1, 1), (1, 1, 1), (1, 1, 0)]
    assert [window.index for window in windows] == [5, 6, 7]
    assert {window.path for window in windows} == {"global"}


@given(layouts())
@settings(max_examples=200, deadline=None)
def test_global_windows_cover_each_frame_once(layout):
    num_latent_frames, window_size, _, _ = layout
    windows = global_windows(num_latent_frames, window_size)
    dilation = len(windows)
    assert dilation * window_size >= num_latent_frames > (dilation - 1) * window_size
    counted = [
        frame
        for window in windows
        for frame, weight in zip(window.frames, window.weights, strict=True)
        if weight == 1
    ]
    assert sorted(counted) == list(range(num_latent_frames))
    for window in windows:
        assert len(window.frames) == len(window.weights) == window_size
        padding = [frame for frame, w in zip(window.frames, window.weights, strict=True) if w == 0]
        assert set(padding) <= {num_latent_frames - 1}


def test_local_windows_have_the_shifted_starts_of_the_paper_and_both_ends():
    windows = local_windows(37, 13, 6, 4, first_index=3)
    assert starts(windows) == [0, 4, 10, 16, 22, 24]
    assert [window.index for window in windows] == [3, 4, 5, 6, 7, 8]
    assert {window.path for window in windows} == {"local"}


@given(layouts())
@settings(max_examples=200, deadline=None)
def test_local_starts_are_equation_7_clamped_with_both_ends(layout):
    num_latent_frames, window_size, stride, shift = layout
    last = num_latent_frames - window_size
    every_start = {
        min(max(shift + (i - 1) * stride, 0), last) for i in range(num_latent_frames + 2)
    }
    windows = local_windows(num_latent_frames, window_size, stride, shift)
    assert starts(windows) == sorted(every_start | {0, last})


@given(layouts())
@settings(max_examples=200, deadline=None)
def test_local_windows_cover_every_frame(layout):
    num_latent_frames, window_size, _, _ = layout
    windows = local_windows(*layout)
    covered = {frame for window in windows for frame in window.frames}
    assert covered == set(range(num_latent_frames))
    for window in windows:
        assert window.frames == tuple(range(window.frames[0], window.frames[0] + window_size))
        assert window.weights == (1.0,) * window_size
    assert [window.index for window in windows] == list(range(len(windows)))


@pytest.mark.parametrize("window_size", range(1, 40))
def test_triangle_is_the_pyramid_of_diffusers(window_size):
    from diffusers.models.attention import FreeNoiseTransformerBlock

    theirs = FreeNoiseTransformerBlock._get_frame_weights(None, window_size, "pyramid")
    assert list(triangle_weights(window_size)) == theirs


def test_local_windows_take_weights():
    windows = local_windows(9, 4, 3, weights=triangle_weights(4))
    assert starts(windows) == [0, 3, 5]
    assert {window.weights for window in windows} == {(1.0, 2.0, 2.0, 1.0)}


@pytest.mark.parametrize("limit", [None, 13, 14])
def test_clips_up_to_the_models_longest_pass(limit):
    check_clip(13, limit)


@pytest.mark.parametrize("shift", range(6))
def test_native_length_is_one_plain_window(shift):
    (global_window,) = global_windows(13, 13)
    (local_window,) = local_windows(13, 13, 6, shift)
    assert global_window.frames == local_window.frames == tuple(range(13))
    assert global_window.weights == local_window.weights == (1.0,) * 13


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: global_windows(12, 13), "num_latent_frames is 12: it must be at least"),
        (lambda: global_windows(12, 0), "window_size is 0: it must be at least 1"),
        (lambda: local_windows(12, 13, 6, 0), "num_latent_frames is 12: it must be at least"),
        (lambda: local_windows(37, 13, 0, 0), "stride is 0: it must be between 1 and"),
        (lambda: local_windows(37, 13, 14, 0), "stride is 14: it must be between 1 and"),
        (lambda: local_windows(37, 13, 6, 6), "shift is 6: it must be between 0 and"),
        (lambda: local_windows(37, 13, 6, -1), "shift is -1: it must be between 0 and"),
        (lambda: check_clip(37, 13), "span 37 latent frames, and the model's positions end at 13"),
        (lambda: random_shift(0, 0, 0), "stride is 0: it must be at least 1"),
    ],
)
def test_nonsense_is_refused_in_words(call, text):
    with pytest.raises(ValueError, match=text):
        call()


def test_shifts_are_pinned_across_platforms_and_releases():
    assert [random_shift(42, step, 6) for step in range(12)] == [5, 3, 5, 3, 0, 2, 4, 5, 4, 0, 0, 2]


def test_shifts_are_the_same_in_another_process():
    code = (
        "from glc_ray.core.windows import random_shift as r; print([r(-7, i, 9) for i in range(9)])"
    )
    root = Path(__file__).parents[2]
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, check=True, text=True
    )
    assert output.stdout.strip() == str([random_shift(-7, step, 9) for step in range(9)])


@pytest.mark.parametrize("along", ["seed", "step"])
def test_shifts_are_uniform_and_independent_of_their_neighbours(along):
    draws = [
        random_shift(i, 3, 6) if along == "seed" else random_shift(3, i, 6) for i in range(6000)
    ]
    pairs = [(a, b) for a, b in zip(draws[::2], draws[1::2], strict=True)]
    # 1000 expected of each shift, 83 of each pair: bounds at about 5 standard deviations.
    assert all(850 < draws.count(shift) < 1150 for shift in range(6))
    assert all(38 < pairs.count((a, b)) < 129 for a in range(6) for b in range(6))
