"""Low-pass filters over (frames, height, width) and the mixing of two tensors by them.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

import torch
from torch import Tensor

_FFT_DIMS = (1, 3, 4)  # frames, height, width of BFCHW


def butterworth_low_pass(
    num_latent_frames: int,
    height: int,
    width: int,
    *,
    order: int = 4,
    spatial_cutoff: float = 0.25,
    temporal_cutoff: float = 0.25,
) -> Tensor:
    """The low-pass H of the frequency fusion (Eq. 11), on the unshifted grid of `torch.fft.fftn`.

    H = 1 / (1 + (d/d_s)^(2·order)), with d² = (d_s/d_t)²·f_t² + f_h² + f_w². As in FreeInit a
    frequency f is a share of the Nyquist frequency, −1..1, so a cut-off of 0.25 is 0.125 cycles a
    latent frame (or cell), a period of 8; there H = 1/2, and H = 1 at frequency 0. FreeInit's own
    grid, 2i/n − 1, puts no sample on 0 for an odd n; ``fftfreq`` does for every n (decided), so
    H(f) = H(−f) and a real input stays real.

    Args:
        num_latent_frames, height, width: size of the grid in latent frames and cells.
        order: steepness of the fall.
        spatial_cutoff, temporal_cutoff: d_s and d_t, shares of the Nyquist frequency.

    Returns:
        H (F, H, W) in float32, on the CPU.

    Raises:
        ValueError: a cut-off is not positive.
    """
    if min(spatial_cutoff, temporal_cutoff) <= 0:
        raise ValueError(f"cut-offs are {spatial_cutoff} and {temporal_cutoff}: must be above 0.")
    f_t, f_h, f_w = _frequencies(num_latent_frames, height, width)
    ratio_squared_FHW = (
        (f_t[:, None, None] / temporal_cutoff) ** 2
        + (f_h[:, None] / spatial_cutoff) ** 2
        + (f_w / spatial_cutoff) ** 2
    )
    return (1 / (1 + ratio_squared_FHW**order)).float()


def gaussian_low_pass(num_frames: int, height: int, width: int, *, cutoff: float = 0.25) -> Tensor:
    """The low-pass H of FreeLong, on the unshifted grid of `torch.fft.fftn`.

    H = exp(−½·Σ(f/cutoff)²) over the frequencies f along frames, height and width, each a share of
    the Nyquist frequency as in `butterworth_low_pass`; H = 1 at frequency 0.

    Args:
        num_frames, height, width: size of the grid in frames and cells (of attention: tokens).
        cutoff: standard deviation of the bell, a share of the Nyquist frequency.

    Returns:
        H (F, H, W) in float32, on the CPU.

    Raises:
        ValueError: the cut-off is not positive.
    """
    if cutoff <= 0:
        raise ValueError(f"the cut-off is {cutoff}: must be above 0.")
    f_t, f_h, f_w = _frequencies(num_frames, height, width)
    ratio_squared_FHW = (
        (f_t[:, None, None] / cutoff) ** 2 + (f_h[:, None] / cutoff) ** 2 + (f_w / cutoff) ** 2
    )
    return torch.exp(-0.5 * ratio_squared_FHW).float()


def _frequencies(*sizes: int) -> tuple[Tensor, ...]:
    """Frequencies along each dimension as shares of the Nyquist frequency, −1..1, in float64."""
    return tuple(2 * torch.fft.fftfreq(size, dtype=torch.float64) for size in sizes)


def frequency_mix(low_BFCHW: Tensor, high_BFCHW: Tensor, low_pass_FHW: Tensor) -> Tensor:
    """Low frequencies of one tensor with the high ones of another (Eq. 11).

    IFFT3(FFT3(low)·H + FFT3(high)·(1 − H)), computed in float32 (float64 stays float64). The FFT is
    linear, so it is evaluated as high + IFFT3(FFT3(low − high)·H): two transforms in place of
    three, and exactly ``high`` where both agree. The transforms are real ones, which is right for
    an H with H(f) = H(−f).

    Args:
        low_BFCHW, high_BFCHW: (B, F, C, H, W).
        low_pass_FHW: H (F, H, W) with H(f) = H(−f), as the filters here have it.

    Returns:
        (B, F, C, H, W) in float32 (float64 for float64 input).
    """
    dtype = torch.promote_types(low_BFCHW.dtype, torch.float32)
    high_BFCHW = high_BFCHW.to(dtype)
    spectrum = torch.fft.rfftn(low_BFCHW.to(dtype) - high_BFCHW, dim=_FFT_DIMS)
    half_FHW = low_pass_FHW[..., : spectrum.shape[-1]].to(device=spectrum.device, dtype=dtype)
    sizes = [low_BFCHW.shape[dim] for dim in _FFT_DIMS]
    low_part = torch.fft.irfftn(spectrum.mul_(half_FHW[:, None]), s=sizes, dim=_FFT_DIMS)
    return low_part.add_(high_BFCHW)
