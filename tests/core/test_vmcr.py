"""VMCR: Eq. 12–15."""

from itertools import pairwise

import pytest
import torch

from glc_ray.core.vmcr import VMCRWeights, correct, gradient, loss

MSE_ONLY_EXTRA = 3.0


def random_latents(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def linear_motion(num_frames, dtype=torch.float64):
    start, step = random_latents((1, 2, 3, 6, 5), dtype=dtype).split(1, dim=1)
    return start + step * torch.arange(num_frames, dtype=dtype)[:, None, None, None]


def as_printed(x0, weights):
    """Eq. 12–14 word for word, with whole spectra and loops; no mask."""
    delta = x0[:, 1:] - x0[:, :-1]
    total = torch.zeros((), dtype=x0.dtype)
    for batch in delta:
        for a, b in pairwise(batch):
            cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
            f_a, f_b = torch.fft.fft2(a), torch.fft.fft2(b)
            amplitude = (f_a.abs() - f_b.abs()).abs().sum()
            phase = torch.angle(f_a * f_b.conj()).abs().sum()
            total = total + 1 - cosine + weights.mse * (a - b).square().sum()
            total = total + weights.frequency * (amplitude + weights.phase * phase)
    return total


@pytest.mark.parametrize("size", [(6, 4), (5, 7), (4, 1), (1, 1)])
@pytest.mark.parametrize("weights", [VMCRWeights(), VMCRWeights(0.7, 0.3, 0.0), VMCRWeights(0.0)])
def test_loss_and_gradient_are_the_equations(size, weights):
    x0 = random_latents((2, 6, 3, *size)).requires_grad_()
    expected = as_printed(x0, weights)
    torch.testing.assert_close(loss(x0, weights), expected)
    (expected_gradient,) = torch.autograd.grad(expected, x0)
    torch.testing.assert_close(gradient(x0, weights), expected_gradient)


def test_squared_term_has_its_closed_form():
    """d/dx of ‖D₂x‖² is 2·D₂ᵀD₂x, with D₂ the second difference over frames."""
    x0 = random_latents((1, 7, 2, 3, 4))
    with_term = VMCRWeights(frequency=0.0, mse=MSE_ONLY_EXTRA)
    without = VMCRWeights(frequency=0.0, mse=0.0)
    second = torch.zeros((5, 7), dtype=torch.float64)
    for row in range(5):
        second[row, row : row + 3] = torch.tensor([1.0, -2.0, 1.0])
    expected = 2 * MSE_ONLY_EXTRA * torch.einsum("fg,bgchw->bfchw", second.T @ second, x0)
    torch.testing.assert_close(gradient(x0, with_term) - gradient(x0, without), expected)


def test_gradcheck():
    x0 = random_latents((1, 5, 2, 4, 3), seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss(x, VMCRWeights(0.7, 0.3, 0.9)), x0)


def test_linear_motion_is_without_loss():
    assert loss(linear_motion(9)).item() == pytest.approx(0, abs=1e-8)


def test_a_kink_in_the_motion_is_a_loss():
    x0 = linear_motion(9)
    x0[:, 5:] = x0[:, 5:].flip(1)
    assert loss(x0).item() > 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_still_video_gives_zeros_and_no_nan(dtype):
    x0 = random_latents((1, 1, 3, 4, 5), dtype=dtype).repeat(1, 8, 1, 1, 1)
    assert loss(x0).item() == 0
    assert torch.equal(gradient(x0), torch.zeros_like(x0))


def test_a_video_that_stops_has_a_bounded_gradient():
    x0 = random_latents((1, 8, 3, 4, 5), dtype=torch.float32)
    x0[:, 4:] = x0[:, 3:4] + 1e-7 * x0[:, 4:]
    assert gradient(x0).isfinite().all()
    assert gradient(x0).abs().max() < 1e3


def test_an_empty_channel_has_no_phase_and_no_nan():
    x0 = random_latents((1, 6, 3, 4, 5), dtype=torch.float32)
    x0[:, :, 1] = 0
    assert gradient(x0).isfinite().all()
    assert torch.equal(gradient(x0)[:, :, 1], torch.zeros(1, 6, 4, 5))


@pytest.mark.parametrize("frames", [slice(None), slice(0, 3), slice(3, 6)])
def test_a_channel_of_rounding_noise_has_no_phase(frames):
    x0 = random_latents((1, 6, 3, 4, 5), dtype=torch.float32)
    x0[:, frames, 1] *= 1e-6
    assert gradient(x0)[:, :, 1].abs().max() < 100


@pytest.mark.parametrize("frames", [slice(None), slice(0, 3), slice(3, 6)])
@pytest.mark.parametrize("scale", [1e-19, 1e-21, 1e-23, 1e-25, 1e-38])
def test_a_channel_whose_squares_vanish_has_no_nan(scale, frames):
    x0 = random_latents((1, 6, 3, 4, 5), dtype=torch.float32)
    x0[:, frames, 1] *= scale
    assert gradient(x0).isfinite().all()
    assert gradient(x0)[:, :, 1].abs().max() < 100


@pytest.mark.parametrize("frames", [slice(None), slice(0, 4), slice(3, 6)])
def test_motions_whose_squares_vanish_have_no_nan(frames):
    x0 = random_latents((1, 6, 3, 4, 5), dtype=torch.float32)
    x0[:, frames] *= 1e-22
    assert gradient(x0).isfinite().all()


@pytest.mark.parametrize("num_frames", [0, 1, 2])
def test_too_few_frames_have_no_motion_to_compare(num_frames):
    x0 = random_latents((1, num_frames, 2, 3, 4))
    assert loss(x0).item() == 0
    assert torch.equal(gradient(x0), torch.zeros_like(x0))


@pytest.mark.parametrize("max_chunk_frames", [1, 3, 4, 5, 11, 12, 13, 100])
@pytest.mark.parametrize("num_frames", [3, 4, 13])
def test_chunks_give_the_gradient_of_the_whole(num_frames, max_chunk_frames):
    x0 = random_latents((2, num_frames, 3, 4, 6))
    whole = x0.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(whole), whole)
    torch.testing.assert_close(gradient(x0, max_chunk_frames=max_chunk_frames), expected)


def test_default_chunks_give_the_gradient_of_the_whole_on_a_large_picture():
    x0 = random_latents((1, 20, 4, 128, 128), dtype=torch.float32)  # 16 frames fit into a chunk
    whole = gradient(x0, max_chunk_frames=20)
    assert not torch.equal(gradient(x0), torch.zeros_like(x0))
    torch.testing.assert_close(gradient(x0), whole, rtol=0, atol=1e-4 * whole.std().item())


def test_a_step_lowers_the_loss():
    x0 = random_latents((1, 13, 4, 8, 12), dtype=torch.float32)
    refined = correct(x0, x0, 1.0, step_size=1e-3)
    assert loss(refined) < 0.995 * loss(x0)


def test_the_correction_is_scaled_by_the_signal_share():
    latents, x0 = random_latents((1, 5, 2, 3, 4), 1), random_latents((1, 5, 2, 3, 4), 2)
    before = latents.clone()
    corrected = correct(latents, x0, 0.5, step_size=0.1)
    torch.testing.assert_close(corrected, latents - 0.1 * 0.5 * gradient(x0))
    assert torch.equal(latents, before)
    assert torch.equal(correct(latents, x0, 0.0), latents)


def test_the_default_step_is_of_the_size_of_the_paper():
    """Sum, not mean: 6e-4 RMS on noise of unit variance at 480 × 720, not 2e-10."""
    x0 = random_latents((1, 6, 4, 60, 90), dtype=torch.float32)
    step = correct(torch.zeros_like(x0), x0, 1.0)
    assert 4e-4 < step.square().mean().sqrt().item() < 8e-4


def test_half_precision_latents_keep_their_dtype():
    x0 = random_latents((1, 5, 2, 3, 4)).bfloat16()
    assert correct(x0, x0, 0.5).dtype == torch.bfloat16
    assert gradient(x0).dtype == torch.float32
    assert torch.equal(gradient(x0), gradient(x0.float()))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_it_works_where_gradients_are_off(mode):
    x0 = random_latents((1, 5, 2, 3, 4))
    expected = correct(x0, x0, 0.5)
    with mode():
        inside = x0 * 1.0
        corrected = correct(inside, inside, 0.5)
    assert torch.equal(corrected, expected)
    assert not corrected.requires_grad
