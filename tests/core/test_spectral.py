"""The low-pass filters and frequency fusion (Eq. 11)."""

import math

import pytest
import torch

from glc_ray.core.spectral import butterworth_low_pass, frequency_mix, gaussian_low_pass

SIZES = [(13, 8, 12), (37, 5, 7), (7, 4, 9), (2, 3, 1)]


def noise(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def as_printed(low, high, low_pass):
    """Eq. 11 word for word, with complex transforms and its imaginary part."""
    dims = (1, 3, 4)
    low_pass = low_pass.double()[:, None]
    mixed = torch.fft.fftn(low, dim=dims) * low_pass + torch.fft.fftn(high, dim=dims) * (
        1 - low_pass
    )
    return torch.fft.ifftn(mixed, dim=dims)


@pytest.mark.parametrize("size", SIZES)
def test_mix_is_equation_11_and_has_no_imaginary_part(size):
    frames, height, width = size
    low, high = noise((2, frames, 3, height, width)), noise((2, frames, 3, height, width), 1)
    low_pass = butterworth_low_pass(*size)
    expected = as_printed(low, high, low_pass)
    assert expected.imag.abs().max() < 1e-13
    torch.testing.assert_close(frequency_mix(low, high, low_pass), expected.real)


@pytest.mark.parametrize("size", SIZES)
def test_mixing_with_itself_changes_nothing(size):
    frames, height, width = size
    latents = noise((1, frames, 2, height, width), dtype=torch.float32)
    low_pass = butterworth_low_pass(*size)
    torch.testing.assert_close(
        as_printed(latents.double(), latents.double(), low_pass).real.float(), latents
    )
    assert torch.equal(frequency_mix(latents, latents, low_pass), latents)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("low_pass_of", [butterworth_low_pass, gaussian_low_pass])
def test_filter_is_centred_whatever_the_parity(size, low_pass_of):
    low_pass = low_pass_of(*size)
    mirrored = low_pass.flip((0, 1, 2)).roll((1, 1, 1), (0, 1, 2))
    assert torch.equal(low_pass, mirrored)
    assert low_pass.flatten()[0] == low_pass.max() == 1


def test_cutoff_is_half_at_a_quarter_of_nyquist_which_is_a_period_of_8():
    low_pass = butterworth_low_pass(16, 16, 16)
    assert low_pass[2, 0, 0] == low_pass[0, 2, 0] == low_pass[0, 0, 2] == 0.5
    wide = butterworth_low_pass(16, 16, 16, temporal_cutoff=0.5)
    assert wide[4, 0, 0] == wide[0, 2, 0] == 0.5
    assert low_pass[8, 8, 8] < 1e-4


def test_filter_is_the_fall_of_order_4():
    low_pass = butterworth_low_pass(16, 16, 16)
    assert low_pass[0, 4, 0].item() == pytest.approx(1 / (1 + 2**8))


@pytest.mark.parametrize("cutoffs", [(0.0, 0.25), (0.25, -1.0)])
def test_cutoffs_must_be_positive(cutoffs):
    with pytest.raises(ValueError, match="must be above 0"):
        butterworth_low_pass(4, 4, 4, spatial_cutoff=cutoffs[0], temporal_cutoff=cutoffs[1])


def test_half_precision_is_mixed_in_float32():
    low, high = noise((1, 5, 2, 4, 4)).bfloat16(), noise((1, 5, 2, 4, 4), 1).bfloat16()
    low_pass = butterworth_low_pass(5, 4, 4)
    mixed = frequency_mix(low, high, low_pass)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, frequency_mix(low.float(), high.float(), low_pass))


def test_gaussian_is_its_formula_bin_by_bin():
    sizes, cutoff = (6, 5, 4), 0.3
    low_pass = gaussian_low_pass(*sizes, cutoff=cutoff)
    for index in torch.cartesian_prod(*map(torch.arange, sizes)).tolist():
        # Bin i of n has min(i, n - i) periods over n samples; the Nyquist frequency has n / 2.
        shares = [2 * min(i, n - i) / n for i, n in zip(index, sizes, strict=True)]
        expected = math.exp(-0.5 * sum((share / cutoff) ** 2 for share in shares))
        assert low_pass[tuple(index)].item() == pytest.approx(expected, rel=1e-6)


def test_gaussian_falls_by_the_root_of_e_at_a_quarter_of_nyquist():
    low_pass = gaussian_low_pass(16, 16, 16)
    for place in ((2, 0, 0), (0, 2, 0), (0, 0, 2)):
        assert low_pass[place].item() == pytest.approx(math.exp(-0.5))


@pytest.mark.parametrize("cutoff", [0.0, -0.25])
def test_gaussian_cutoff_must_be_positive(cutoff):
    with pytest.raises(ValueError, match="must be above 0"):
        gaussian_low_pass(4, 4, 4, cutoff=cutoff)
