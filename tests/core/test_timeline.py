"""Which prompt counts where: properties, and closed forms by numpy and bisection."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from glc_ray.core.timeline import frame_prompt_weights, window_prompt_weights
from glc_ray.core.windows import global_windows
from glc_ray.protocols import Window

starts_of_prompts = st.lists(st.integers(1, 60), max_size=4).map(
    lambda gaps: [0, *accumulate(gaps)]
)
transitions = st.integers(0, 40)


def window(frames: tuple[int, ...], weights: tuple[float, ...] | None = None) -> Window:
    return Window(0, "local", frames, weights or (1.0,) * len(frames))


def position(weights: tuple[float, ...]) -> float:
    """Where on the way from prompt 0 to the last one: a weight of 1 on prompt i is i."""
    return float(np.dot(weights, range(len(weights))))


@given(starts_of_prompts, transitions, st.integers(0, 300))
def test_weights_sum_to_1_and_mix_two_neighbours_at_most(
    starts: list[int], transition_frames: int, frame: int
) -> None:
    weights = frame_prompt_weights(frame, starts, transition_frames)
    assert len(weights) == len(starts)
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    assert min(weights) >= 0
    mixed = [index for index, weight in enumerate(weights) if weight > 0]
    assert len(mixed) in (1, 2)
    assert mixed[-1] - mixed[0] == len(mixed) - 1


@given(starts_of_prompts, st.integers(1, 40))
def test_time_goes_from_prompt_to_prompt_without_a_jump_or_a_way_back(
    starts: list[int], transition_frames: int
) -> None:
    frames = range(-50, starts[-1] + 50)
    weights = np.array([frame_prompt_weights(frame, starts, transition_frames) for frame in frames])
    positions = weights @ np.arange(len(starts))
    assert (np.diff(positions) >= -1e-12).all()
    assert (positions[0], positions[-1]) == (0, len(starts) - 1)
    # At most every change goes on at once, each 1 / transition_frames a frame.
    fastest = (len(starts) - 1) / transition_frames
    assert np.abs(np.diff(weights, axis=0)).max() <= fastest + 1e-12


@given(starts_of_prompts, st.integers(1, 40), st.floats(-50, 300))
def test_changes_apart_are_numpys_interpolation(
    starts: list[int], transition_frames: int, frame: float
) -> None:
    """Prompt i reigns from half a transition after its start to half a one before the next."""
    changes = starts[1:]
    assume(len(changes) > 0)
    assume(all(b - a >= transition_frames for a, b in pairwise(changes)))
    half = transition_frames / 2
    ends = [edge for start in changes for edge in (start - half, start + half)]
    levels = [level for index in range(len(changes)) for level in (index, index + 1)]
    expected = np.interp(frame, ends, levels)
    weights = frame_prompt_weights(frame, starts, transition_frames)
    assert position(weights) == pytest.approx(expected, abs=1e-9)


@given(starts_of_prompts, transitions, st.integers(0, 300))
def test_outside_of_changes_one_prompt_counts_exactly(
    starts: list[int], transition_frames: int, frame: int
) -> None:
    assume(all(abs(frame - start) >= transition_frames / 2 for start in starts[1:]))
    current = bisect_right(starts, frame) - 1
    expected = tuple(float(index == current) for index in range(len(starts)))
    assert frame_prompt_weights(frame, starts, transition_frames) == expected


@given(starts_of_prompts, st.integers(0, 300))
def test_no_transition_is_a_hard_cut(starts: list[int], frame: int) -> None:
    weights = frame_prompt_weights(frame, starts, 0)
    assert weights.index(1) == bisect_right(starts, frame) - 1
    assert sum(weights) == 1


def test_a_change_is_centred_on_its_frame() -> None:
    weights = [frame_prompt_weights(frame, [0, 100], 16) for frame in (92, 96, 100, 104, 108)]
    assert weights == [(1, 0), (0.75, 0.25), (0.5, 0.5), (0.25, 0.75), (0, 1)]


@given(starts_of_prompts, transitions, st.integers(0, 60), st.integers(1, 20))
def test_a_window_within_one_prompt_is_exactly_that_one(
    starts: list[int], transition_frames: int, first: int, window_size: int
) -> None:
    frames = tuple(range(first, first + window_size))
    reach = transition_frames / 2
    assume(all(4 * frames[-1] <= s - max(reach, 1) or 4 * first >= s + reach for s in starts[1:]))
    weights = window_prompt_weights(window(frames), starts, transition_frames, 4)
    current = bisect_right(starts, 4 * first) - 1
    assert weights == tuple(float(index == current) for index in range(len(starts)))


@given(starts_of_prompts, transitions, st.integers(2, 13), st.integers(0, 60))
def test_dilated_windows_together_mix_as_the_whole_video_does(
    starts: list[int], transition_frames: int, window_size: int, extra: int
) -> None:
    """They divide the frames among them, so their means average to the mean over all frames."""
    num_latent_frames = window_size + extra
    means, counts = [], []
    for dilated in global_windows(num_latent_frames, window_size):
        means.append(window_prompt_weights(dilated, starts, transition_frames, 4))
        counts.append(sum(dilated.weights))
    whole = [
        frame_prompt_weights(4 * frame, starts, transition_frames)
        for frame in range(num_latent_frames)
    ]
    assert np.average(means, axis=0, weights=counts) == pytest.approx(np.mean(whole, axis=0))


def test_every_dilated_window_is_a_mixture_of_a_video_with_two_halves() -> None:
    for dilated in global_windows(37, 7):
        first, second = window_prompt_weights(dilated, [0, 73], 16, 4)
        assert first + second == pytest.approx(1)
        assert 0.35 < first < 0.65


def test_padding_does_not_count() -> None:
    padded = window((0, 9, 18, 18), (1, 1, 1, 0))
    assert window_prompt_weights(padded, [0, 60], 0, 4) == (2 / 3, 1 / 3)


@given(starts_of_prompts, transitions, st.integers(0, 60), st.integers(1, 3))
def test_leading_latent_frames_shift_the_timeline(
    starts: list[int], transition_frames: int, first: int, leading: int
) -> None:
    """Latent frame 1 of CogVideoX 1.5 shows what latent frame 0 of other models does."""
    frames = tuple(range(first, first + 5))
    shifted = tuple(frame + leading for frame in frames)
    expected = window_prompt_weights(window(frames), starts, transition_frames, 4)
    assert window_prompt_weights(window(shifted), starts, transition_frames, 4, leading) == expected


@given(st.integers(1, 120), st.integers(1, 8))
def test_a_cut_on_any_frame_takes_the_latent_frame_that_shows_it(
    start: int, temporal_ratio: int
) -> None:
    """Latent frame f > 0 shows pixel frames ratio * (f - 1) + 1 .. ratio * f."""
    shows = -(-start // temporal_ratio)
    for frame, expected in ((shows - 1, (1, 0)), (shows, (0, 1))):
        assert window_prompt_weights(window((frame,)), [0, start], 0, temporal_ratio) == expected
