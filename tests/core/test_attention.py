"""Attention over long clips against its definition: dense masks, all tokens at once, float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from glc_ray.core.attention import (
    SelfAttention,
    local_attention,
    spectral_attention,
    token_frames,
    windowed_attention,
)
from glc_ray.core.spectral import gaussian_low_pass

GRID = (7, 2, 3)
TEXT = pytest.mark.parametrize("num_text", [0, 5])
ROTARY = pytest.mark.parametrize("rotary", [False, True])


def qkv(num_text, grid=GRID, dtype=torch.float64):
    frames, rows, columns = grid
    shape = (2, 3, num_text + frames * rows * columns, 4)
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in "qkv"]


def turned(tokens_BHSD, frames_S):
    """Rotary positions: pairs of channels as complex numbers, turned by an angle a frame."""
    pairs = torch.view_as_complex(tokens_BHSD.unflatten(-1, (-1, 2)).double().contiguous())
    angles = frames_S[:, None] * torch.tensor([1.0, 0.3], dtype=torch.float64)
    turned_pairs = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.view_as_real(turned_pairs).flatten(-2).to(tokens_BHSD.dtype)


def frame_of_token(num_text, grid=GRID):
    """Token frame of each token; -1 for text."""
    frames, rows, columns = grid
    video = torch.arange(frames).repeat_interleave(rows * columns)
    return torch.cat([torch.full((num_text,), -1), video])


def work(num_text, rotary, grid=GRID, dtype=torch.float64):
    def rotate(tokens_BHSD, num_frames):
        assert tokens_BHSD.shape[2] == num_frames * grid[1] * grid[2]
        frames = torch.arange(num_frames).repeat_interleave(grid[1] * grid[2])
        return turned(tokens_BHSD, frames)

    return SelfAttention(
        *(tensor.clone() for tensor in qkv(num_text, grid, dtype)),
        num_text=num_text,
        grid=grid,
        rotate=rotate if rotary else None,
        attend=scaled_dot_product_attention,
    )


def dense(num_text, rotary, may_see_SS, first_frame=0):
    """Attention of every token under a mask, positions counted from ``first_frame``."""
    query, key, value = qkv(num_text)
    if rotary:
        frames = frame_of_token(num_text) - first_frame
        frames = torch.where(frame_of_token(num_text) < 0, 0, frames)
        query, key = turned(query, frames), turned(key, frames)
    return scaled_dot_product_attention(query, key, value, attn_mask=may_see_SS)


def near_mask(num_text, radius):
    frames = frame_of_token(num_text)
    near = (frames[:, None] - frames).abs() <= radius
    return near | (frames < 0) | (frames < 0)[:, None]


@TEXT
@ROTARY
@pytest.mark.parametrize("radius", [1, 2, 5, 6, 50])
def test_local_attention_is_attention_under_a_band_mask(num_text, rotary, radius):
    expected = dense(num_text, rotary, near_mask(num_text, radius))
    torch.testing.assert_close(local_attention(work(num_text, rotary), radius), expected)


@TEXT
@ROTARY
@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("cutoff", [0.05, 0.25, 1.0])
def test_spectral_attention_is_low_global_plus_high_local(num_text, rotary, radius, cutoff):
    everything = torch.ones_like(near_mask(num_text, 0))
    expected = dense(num_text, rotary, everything)
    streams = [expected, dense(num_text, rotary, near_mask(num_text, radius))]
    low_pass = gaussian_low_pass(*GRID, cutoff=cutoff)
    low, high = (
        torch.fft.fftn(stream[:, :, num_text:].unflatten(2, GRID), dim=(2, 3, 4))
        for stream in streams
    )
    gain = low_pass.double()[..., None]
    mixed = torch.fft.ifftn(low * gain + high * (1 - gain), dim=(2, 3, 4))
    assert mixed.imag.abs().max() < 1e-14
    expected[:, :, num_text:] = mixed.real.flatten(2, 4)

    output = spectral_attention(work(num_text, rotary), radius, low_pass)
    # The filter is float32: 1 - H is rounded there.
    torch.testing.assert_close(output, expected, rtol=1e-6, atol=1e-7)


@TEXT
@ROTARY
def test_without_a_high_pass_the_global_stream_is_left_bit_for_bit(num_text, rotary):
    output = spectral_attention(work(num_text, rotary), 1, torch.ones(GRID))
    assert torch.equal(output, work(num_text, rotary).full())


@TEXT
@ROTARY
def test_a_radius_over_the_whole_clip_is_full_attention(num_text, rotary):
    """The mask hides nothing; a frame's queries apart from the others differ by rounding."""
    low_pass = gaussian_low_pass(*GRID)
    output = spectral_attention(work(num_text, rotary), GRID[0] - 1, low_pass)
    torch.testing.assert_close(output, work(num_text, rotary).full(), rtol=0, atol=1e-14)


def windows_by_hand(num_frames, window_size, stride):
    starts = [*range(0, num_frames - window_size, stride), num_frames - window_size]
    rising = [min(place + 1, window_size - place) for place in range(window_size)]
    return [(start, rising) for start in starts]


@TEXT
@ROTARY
@pytest.mark.parametrize(
    ("window_size", "stride"), [(3, 1), (3, 2), (3, 3), (4, 2), (5, 4), (7, 3), (1, 1)]
)
def test_windowed_attention_is_the_weighted_mean_of_masked_attentions(
    num_text, rotary, window_size, stride
):
    frames = frame_of_token(num_text)
    total = torch.zeros(len(frames), dtype=torch.float64)
    summed = torch.zeros_like(qkv(num_text)[0])
    for start, rising in windows_by_hand(GRID[0], window_size, stride):
        inside = (frames >= start) & (frames < start + window_size)
        visible = (inside | (frames < 0)).expand(len(frames), -1)
        weight = torch.where(frames < 0, 1.0, 0.0).double()
        weight[inside] = torch.tensor(rising).double()[frames[inside] - start]
        summed += dense(num_text, rotary, visible, first_frame=start) * weight[:, None]
        total += weight
    output = windowed_attention(work(num_text, rotary), window_size, stride)
    torch.testing.assert_close(output, summed / total[:, None])


@TEXT
@ROTARY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_window_over_the_clip_is_full_attention_bit_for_bit(num_text, rotary, dtype):
    output = windowed_attention(work(num_text, rotary, dtype=dtype), GRID[0], 4)
    assert torch.equal(output, work(num_text, rotary, dtype=dtype).full())


@given(data=st.data(), num_frames=st.integers(1, 40), num_text=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_every_token_has_weight_1_whatever_the_windows(data, num_frames, num_text):
    """Equal values come back as they are: no frame is left out or counted twice."""
    window_size = data.draw(st.integers(1, num_frames))
    stride = data.draw(st.integers(1, window_size))
    one = work(num_text, rotary=False, grid=(num_frames, 1, 1), dtype=torch.float32)
    one.value_BHSD.fill_(3)
    output = windowed_attention(one, window_size, stride)
    torch.testing.assert_close(output, torch.full_like(output, 3))


@pytest.mark.parametrize(
    "attention",
    [
        lambda layer: local_attention(layer, 2),
        lambda layer: spectral_attention(layer, 2, gaussian_low_pass(*GRID)),
        lambda layer: windowed_attention(layer, 3, 2),
    ],
)
def test_half_precision_stays_half_and_near(attention):
    output = attention(work(5, rotary=True, dtype=torch.bfloat16))
    assert output.dtype == torch.bfloat16
    expected = attention(work(5, rotary=True))
    torch.testing.assert_close(output.double(), expected, rtol=0, atol=0.03)


def test_clips_shorter_than_a_window_and_strides_with_gaps_are_refused():
    with pytest.raises(ValueError, match="num_latent_frames is 7: it must be at least"):
        windowed_attention(work(0, rotary=False), 8, 1)
    with pytest.raises(ValueError, match="stride is 4: it must be between 1 and the window of 3"):
        windowed_attention(work(0, rotary=False), 3, 4)


@pytest.mark.parametrize(
    ("latent_frames", "num_latent_frames", "num_token_frames", "expected"),
    [(8, 37, 37, 8), (8, 22, 11, 4), (13, 22, 11, 6), (1, 22, 11, 1), (100, 22, 11, 50)],
)
def test_lengths_in_token_frames_are_rounded_down_to_1_at_least(
    latent_frames, num_latent_frames, num_token_frames, expected
):
    assert token_frames(latent_frames, num_latent_frames, num_token_frames) == expected
