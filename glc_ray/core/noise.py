"""The noise that sampling starts from: correlated over the long video, yet diverse.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from glc_ray.core.spectral import butterworth_low_pass, frequency_mix
from glc_ray.protocols import NoiseSource


class SeededNoise:
    """A `NoiseSource` over one generator, which draws what the model's own pipeline would draw."""

    def __init__(self, seed: int, *, channels_first: bool = False) -> None:
        """Start from a seed, on the CPU.

        Args:
            seed: of all randomness that one video takes.
            channels_first: draw noise as (B, C, F, H, W), as Wan's pipeline does.
        """
        self.generator: Generator = torch.Generator().manual_seed(seed)
        self._channels_first = channels_first

    def normal(self, shape_BFCHW: tuple[int, ...]) -> Tensor:
        """Independent Gaussian noise (B, F, C, H, W) in float32.

        The same numbers as diffusers' ``randn_tensor`` for the model's layout and the same seed.
        """
        if not self._channels_first:
            return torch.randn(shape_BFCHW, generator=self.generator)
        batch, frames, channels, *size = shape_BFCHW
        noise_BCFHW = torch.randn((batch, channels, frames, *size), generator=self.generator)
        return noise_BCFHW.transpose(1, 2).contiguous()

    def permutation(self, size: int) -> list[int]:
        """A random order of 0..size - 1."""
        return torch.randperm(size, generator=self.generator).tolist()


def shuffled_frames(
    num_latent_frames: int, window_size: int, chunk_size: int, noise: NoiseSource
) -> Tensor:
    """Which drawn frame each latent frame repeats under local shuffling (FreeNoise's rule).

    The first L frames keep their own noise. Each following chunk of S frames repeats, in random
    order, the chunk that lies L earlier; a last chunk that does not fit is cut. Draws one
    permutation a chunk, in order, as diffusers' ``shuffle_context`` does.

    Args:
        num_latent_frames: K.
        window_size: L, in latent frames.
        chunk_size: S, in latent frames, 1..L.

    Returns:
        Source frame of each frame (K,), each below L; int64, on the CPU.

    Raises:
        ValueError: ``chunk_size`` is not in 1..``window_size``.
    """
    check_chunk(chunk_size, window_size)
    frames = list(range(min(num_latent_frames, window_size)))
    for start in range(window_size, num_latent_frames, chunk_size):
        order = noise.permutation(chunk_size)
        chunk = [frames[start - window_size + offset] for offset in order]
        frames.extend(chunk[: num_latent_frames - start])
    return torch.tensor(frames, dtype=torch.int64)


def check_chunk(chunk_size: int, window_size: int) -> None:
    """Refuse a chunk that would repeat frames before they have been drawn.

    Raises:
        ValueError: ``chunk_size`` is not in 1..``window_size``.
    """
    if not 1 <= chunk_size <= window_size:
        raise ValueError(
            f"the noise chunk is {chunk_size}: it must be between 1 and the window of "
            f"{window_size} latent frames."
        )


def shuffled_noise(
    shape_BFCHW: tuple[int, ...], window_size: int, noise: NoiseSource, *, chunk_size: int = 4
) -> Tensor:
    """Locally shuffled noise z_T (§3.3, FreeNoise), each frame of which is Gaussian.

    All K frames are drawn, as diffusers draws them, and those from L on are then overwritten: the
    first L frames are those of plain noise for the same seed.

    Args:
        shape_BFCHW: (B, K, C, H, W).
        window_size: L, in latent frames.
        chunk_size: S, in latent frames; FreeNoise's local stride.

    Returns:
        (B, K, C, H, W) in float32.

    Raises:
        ValueError: ``chunk_size`` is not in 1..``window_size``.
    """
    noise_BFCHW = noise.normal(shape_BFCHW)
    frames_F = shuffled_frames(shape_BFCHW[1], window_size, chunk_size, noise)
    return noise_BFCHW.index_select(1, frames_F)


def reinitialise(
    shape_BFCHW: tuple[int, ...],
    window_size: int,
    noise: NoiseSource,
    *,
    chunk_size: int = 4,
    order: int = 4,
    spatial_cutoff: float = 0.25,
    temporal_cutoff: float = 0.25,
) -> Tensor:
    """Reinitialised noise z'_T: low frequencies of shuffled noise, high ones of new noise (Eq. 11).

    The shuffled noise is drawn first, then η. Where H is neither 0 nor 1 the two
    variances add to H² + (1 − H)² < 1; the paper does not rescale, and neither does this.

    Args:
        shape_BFCHW: (B, K, C, H, W).
        window_size: L, in latent frames.
        chunk_size: S, in latent frames.
        order, spatial_cutoff, temporal_cutoff: of H; see `butterworth_low_pass`.

    Returns:
        (B, K, C, H, W) in float32.

    Raises:
        ValueError: ``chunk_size`` is not in 1..``window_size``, or a cut-off is not positive.
    """
    _, num_latent_frames, _, height, width = shape_BFCHW
    low_pass_FHW = butterworth_low_pass(
        num_latent_frames,
        height,
        width,
        order=order,
        spatial_cutoff=spatial_cutoff,
        temporal_cutoff=temporal_cutoff,
    )
    shuffled_BFCHW = shuffled_noise(shape_BFCHW, window_size, noise, chunk_size=chunk_size)
    mixed_BFCHW = frequency_mix(shuffled_BFCHW, noise.normal(shape_BFCHW), low_pass_FHW)
    # Row by row in memory, as latents that are read from a file: sums round by the layout.
    return mixed_BFCHW.contiguous()
