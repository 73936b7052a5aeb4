"""Initial noise: FreeNoise's shuffle and Eq. 11 (diffusers' answer is in tests/oracle)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glc_ray.core.noise import SeededNoise, reinitialise, shuffled_frames, shuffled_noise
from glc_ray.core.spectral import butterworth_low_pass

SHAPE = (1, 37, 4, 8, 12)


def seeded(seed=0):
    return SeededNoise(seed)


@given(st.integers(1, 13), st.integers(1, 80), st.integers(0, 9), st.data())
@settings(max_examples=100, deadline=None)
def test_each_chunk_permutes_the_one_a_window_earlier(window_size, length, seed, data):
    chunk_size = data.draw(st.integers(1, window_size))
    frames = shuffled_frames(length, window_size, chunk_size, seeded(seed)).tolist()
    assert len(frames) == length
    assert frames[:window_size] == list(range(min(length, window_size)))
    for start in range(window_size, length, chunk_size):
        chunk = frames[start : start + chunk_size]
        earlier = frames[start - window_size : start - window_size + chunk_size]
        assert len(set(chunk)) == len(chunk)
        assert set(chunk) <= set(earlier)


def test_the_first_window_keeps_the_plain_noise():
    shuffled = shuffled_noise(SHAPE, 13, seeded())
    assert torch.equal(shuffled[:, :13], seeded().normal(SHAPE)[:, :13])


def test_native_length_shuffles_nothing():
    shape = (1, 13, 4, 8, 12)
    assert torch.equal(shuffled_noise(shape, 13, seeded()), seeded().normal(shape))


def test_reinitialised_noise_has_both_sources_in_their_bands():
    noise = seeded()
    mixed = reinitialise(SHAPE, 13, noise)
    again = seeded()
    shuffled, fresh = shuffled_noise(SHAPE, 13, again), again.normal(SHAPE)
    spectrum, low, high = (torch.fft.fftn(x, dim=(1, 3, 4)) for x in (mixed, shuffled, fresh))
    low_pass = butterworth_low_pass(37, 8, 12)[:, None].expand_as(spectrum[0])
    passes, stops = low_pass > 0.9999, low_pass < 0.0001
    assert passes.any()
    assert stops.any()
    torch.testing.assert_close(spectrum[0][passes], low[0][passes], rtol=0, atol=0.05)
    torch.testing.assert_close(spectrum[0][stops], high[0][stops], rtol=0, atol=0.05)
    assert torch.equal(noise.generator.get_state(), again.generator.get_state())


def test_reinitialised_noise_is_about_unit_variance():
    assert reinitialise((1, 73, 16, 8, 12), 13, seeded()).std().item() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("chunk_size", [0, 14])
def test_a_chunk_must_fit_into_the_window(chunk_size):
    with pytest.raises(ValueError, match=f"noise chunk is {chunk_size}: it must be between 1 and"):
        reinitialise(SHAPE, 13, seeded(), chunk_size=chunk_size)
