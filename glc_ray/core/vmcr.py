"""Video motion consistency refinement (VMCR): a gradient step towards steady motion.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width, ``P``
pairs of successive motions, ``V`` bins of the half spectrum. A *motion* is the difference of
neighbouring frames, δ_i = x̂0[i+1] − x̂0[i] (Eq. 12); a *pair* is (δ_i, δ_{i+1}), i = 0..K − 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

MOTION_FLOOR = 1e-3
"""τ, root mean square of a motion in latent units (decided: clean latents have about unit
variance). Cosine and phase of a pair with a shorter motion are left out: their gradients grow as
1/|δ|, to 1e8 in a still video."""

BIN_FLOOR = 1e-3
"""Amplitude, relative to the root mean square over a motion's spectrum, below which a bin has no
phase (decided). The gradient of a phase grows as 1/amplitude."""

REACH = 2
"""Latent frames to either side that the gradient of a frame depends on."""

_CHUNK_ELEMENTS = 2**20
"""Latent values differentiated at once: bounds memory for any length of video (12 latent frames of
480 × 720 pixels, whole videos of small pictures), and is no slower than larger chunks."""


@dataclass(frozen=True)
class VMCRWeights:
    """Weights of the terms of the motion loss; the defaults are those of §7."""

    frequency: float = 0.2
    """λ_f, of the frequency-wise loss (Eq. 13)."""
    mse: float = 0.001
    """λ_mse, of the squared difference of motions."""
    phase: float = 1.0
    """λ_phase, of the phase difference within the frequency-wise loss (Eq. 14)."""


DEFAULT_WEIGHTS = VMCRWeights()


def loss(x0_BFCHW: Tensor, weights: VMCRWeights = DEFAULT_WEIGHTS) -> Tensor:
    """The motion loss ℓ = ℓ_pixel + λ_f·ℓ_freq, summed over all pairs (Eq. 12–14).

    A sum, not a mean (decided: a mean would make ω = 2e-5 a no-op).

    Args:
        x0_BFCHW: predicted clean latents x̂0, (B, F, C, H, W), float32 or float64.
        weights: of the terms.

    Returns:
        A scalar; 0 for fewer than 3 frames, which have no pair of motions.
    """
    if x0_BFCHW.shape[1] < 3:
        return x0_BFCHW.new_zeros(())
    motion_BFCHW = x0_BFCHW.diff(dim=1)
    length_squared_BF = motion_BFCHW.square().sum(dim=(2, 3, 4))
    moves_BF = length_squared_BF.detach() > MOTION_FLOOR**2 * motion_BFCHW[0, 0].numel()
    moves_BP = moves_BF[:, :-1] & moves_BF[:, 1:]
    total = _pixel_loss(motion_BFCHW, length_squared_BF, moves_BP, weights.mse)
    if weights.frequency > 0:
        total = total + weights.frequency * _frequency_loss(motion_BFCHW, moves_BF, weights.phase)
    return total


def _pixel_loss(
    motion_BFCHW: Tensor, length_squared_BF: Tensor, moves_BP: Tensor, mse_weight: float
) -> Tensor:
    """Σ (1 − cos(δ_i, δ_{i+1})) + λ_mse·‖δ_i − δ_{i+1}‖², a frame as one vector."""
    dot_BP = (motion_BFCHW[:, :-1] * motion_BFCHW[:, 1:]).sum(dim=(2, 3, 4))
    squares_BP = length_squared_BF[:, :-1] * length_squared_BF[:, 1:]
    # The inner where keeps a division by 0 out of the backward pass as well.
    cosine_BP = dot_BP * torch.where(moves_BP, squares_BP, 1.0).rsqrt()
    turn = torch.where(moves_BP, 1 - cosine_BP, 0.0).sum()
    return turn + mse_weight * motion_BFCHW.diff(dim=1).square().sum()


def _frequency_loss(motion_BFCHW: Tensor, moves_BF: Tensor, phase_weight: float) -> Tensor:
    """L1 of amplitude differences + λ_phase·L1 of wrapped phase differences (Eq. 14)."""
    # Motions are real, so half the spectrum holds it all; counts_V makes up for the other half.
    spectrum_BFCHV = torch.fft.rfft2(motion_BFCHW)
    amplitude_BFCHV = spectrum_BFCHV.abs()
    counts_V = _bin_counts(motion_BFCHW.shape[-1], like=amplitude_BFCHV)
    total = (amplitude_BFCHV.diff(dim=1).abs() * counts_V).sum()
    if phase_weight == 0:
        return total
    has_phase_BFCHV = _strong_bins(amplitude_BFCHV.detach(), counts_V)
    has_phase_BFCHV &= moves_BF[:, :, None, None, None]
    # The inner where keeps a division by |z|², which is 0 for tiny bins that are not, out of the
    # backward pass as well.
    angle_BFCHV = torch.where(has_phase_BFCHV, spectrum_BFCHV, 1.0).angle()
    both_BPCHV = has_phase_BFCHV[:, :-1] & has_phase_BFCHV[:, 1:]
    turn_BPCHV = _wrap(angle_BFCHV.diff(dim=1)).abs() * counts_V
    return total + phase_weight * torch.where(both_BPCHV, turn_BPCHV, 0.0).sum()


def _strong_bins(amplitude_BFCHV: Tensor, counts_V: Tensor) -> Tensor:
    """Which bins are above the floor, relative to the spectrum of their own motion."""
    power_BF111 = (amplitude_BFCHV.square() * counts_V).sum(dim=(2, 3, 4), keepdim=True)
    num_bins = math.prod(amplitude_BFCHV.shape[2:4]) * counts_V.sum()
    return amplitude_BFCHV > BIN_FLOOR * (power_BF111 / num_bins).sqrt()


def _wrap(angle: Tensor) -> Tensor:
    """The same angle in −π..π; its gradient is that of ``angle``."""
    return angle - 2 * math.pi * (angle.detach() / (2 * math.pi)).round()


def _bin_counts(width: int, like: Tensor) -> Tensor:
    """How many bins of the full spectrum each column of the half spectrum stands for."""
    counts = torch.full((width // 2 + 1,), 2.0, dtype=like.dtype, device=like.device)
    counts[0] = 1
    if width % 2 == 0:
        counts[-1] = 1
    return counts


def gradient(
    x0_BFCHW: Tensor,
    weights: VMCRWeights = DEFAULT_WEIGHTS,
    *,
    first_frame: int = 0,
    max_chunk_frames: int | None = None,
) -> Tensor:
    """∇ℓ with respect to x̂0, with the model's output frozen (Eq. 15; decided: no model backward).

    Each pair of motions touches 3 frames, so chunks that share 2 frames hold every pair once, and
    the sum of their gradients is the gradient of the whole. Of some frames of a video it is that
    of the video but for the `REACH` frames next to a border that is not the video's.

    Args:
        x0_BFCHW: predicted clean latents x̂0, (B, F, C, H, W); computed in float32 (float64 stays).
        weights: of the terms.
        first_frame: of the video that ``x0_BFCHW`` begins with: chunks are those of the video, so
            that sums have the same order.
        max_chunk_frames: frames differentiated at once, at least 3; by default as many as fit into
            2²⁰ latent values, a function of the shape alone.

    Returns:
        (B, F, C, H, W) in float32 (float64 for float64 input); 0 for fewer than 3 frames.
    """
    x0_BFCHW = x0_BFCHW.detach().to(torch.promote_types(x0_BFCHW.dtype, torch.float32))
    chunk_frames = max_chunk_frames or _CHUNK_ELEMENTS // max(1, x0_BFCHW[:, :1].numel())
    # The loop runs without gradients, perhaps in inference mode: leave both for this one graph.
    with torch.inference_mode(False), torch.enable_grad():
        gradient_BFCHW = torch.zeros_like(x0_BFCHW)
        for frames in _chunks(first_frame, x0_BFCHW.shape[1], max(3, chunk_frames)):
            chunk_BFCHW = x0_BFCHW[:, frames].clone().requires_grad_()
            (part_BFCHW,) = torch.autograd.grad(loss(chunk_BFCHW, weights), chunk_BFCHW)
            gradient_BFCHW[:, frames] += part_BFCHW
    return gradient_BFCHW


def _chunks(first_frame: int, num_frames: int, chunk_frames: int) -> Iterator[slice]:
    """Slices of ``num_frames`` frames of a video from ``first_frame`` on, as its chunks cut them.

    Chunks share 2 frames with the next: every 3 successive frames lie in exactly one.
    """
    for chunk in range(0, first_frame + num_frames - 2, chunk_frames - 2):
        start = max(chunk - first_frame, 0)
        stop = min(chunk + chunk_frames - first_frame, num_frames)
        if stop - start >= 3:
            yield slice(start, stop)


def correct(
    latents_prev_BFCHW: Tensor,
    x0_BFCHW: Tensor,
    signal_scale: float,
    *,
    step_size: float = 2e-5,
    weights: VMCRWeights = DEFAULT_WEIGHTS,
    first_frame: int = 0,
) -> Tensor:
    """Refined latents z_{t−1} − ω·√ᾱ_{t−1}·∇ℓ(x̂0) (Eq. 15).

    With v frozen, z_{t−1} holds x̂0 times √ᾱ_{t−1} (1 − σ_{t−1} with flow matching), so a step of
    x̂0 moves it by that much (decided; the paper writes the gradient with respect to z_t). After
    the last step the factor is 1.

    Args:
        latents_prev_BFCHW: z_{t−1}, (B, F, C, H, W).
        x0_BFCHW: predicted clean latents x̂0 of the step, same shape.
        signal_scale: √ᾱ_{t−1}, 0..1.
        step_size: ω.
        weights: of the terms of the loss.
        first_frame: of the video that the latents begin with; see `gradient`.

    Returns:
        (B, F, C, H, W), of the dtype of ``latents_prev_BFCHW``, which is left unchanged.
    """
    step_BFCHW = gradient(x0_BFCHW, weights, first_frame=first_frame).mul_(step_size * signal_scale)
    return (latents_prev_BFCHW - step_BFCHW).to(latents_prev_BFCHW.dtype)
