"""Latents to frames as a stream: one temporal batch of all tiles is alive at a time.

Layout suffixes: B batch, F frames, C channels, H height, W width.

Between temporal batches only the convolution caches of each tile are kept, so memory does not grow
with the video. The floating-point result is bit-equal to the VAE's own decode of the whole video.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glc_ray.media.tiles import TileGrid, blend_tiles, tile_grid
from glc_ray.protocols import FrameDecoder

Frames: TypeAlias = NDArray[np.uint8]
"""RGB frames (frames, height, width, 3)."""


class NonFiniteError(ArithmeticError):
    """Latents or pixels hold NaN or infinity; the message names the frame."""


def stream_decode(decoder: FrameDecoder, latents_BFCHW: Tensor) -> Iterator[Frames]:
    """Decode one video to 8-bit RGB, one temporal batch at a time.

    Rounds as ``CogVideoXPipeline`` does with ``output_type="pil"``.

    Args:
        decoder: a loaded VAE.
        latents_BFCHW: (1, K, C, H, W) final latents on any device. Only a temporal batch of them
            is touched at a time.

    Yields:
        Frames (frames, height, width, 3) uint8, each batch as soon as it is decoded.

    Raises:
        ValueError: more than one video.
        NonFiniteError: latents or pixels hold NaN or infinity.
    """
    if latents_BFCHW.shape[0] != 1:
        raise ValueError(f"one video at a time, got a batch of {latents_BFCHW.shape[0]}")
    # map() holds no reference to the batch that it gave away.
    return map(_to_rgb, stream_pixels(decoder, latents_BFCHW))


def stream_pixels(decoder: FrameDecoder, latents_BFCHW: Tensor) -> Iterator[Tensor]:
    """Decode to floating point, one temporal batch at a time.

    Args:
        decoder: a loaded VAE.
        latents_BFCHW: (B, K, C, H, W) final latents on any device.

    Yields:
        Pixels (B, frames, 3, height, width), about [-1, 1], in the decoder's precision and on its
        device.

    Raises:
        NonFiniteError: latents or pixels hold NaN or infinity.
    """
    _, num_latent_frames, _, height, width = latents_BFCHW.shape
    grid = tile_grid(decoder.tiles, height, width)
    caches: list[Any] = [None] * len(grid)
    num_frames = 0
    for batch in decoder.temporal_batches(num_latent_frames):
        latents = latents_BFCHW[:, batch]
        _check_finite(latents, "latent", batch.start, "the denoising went wrong before the decode")
        pixels = _decode_batch(decoder, _move(latents, decoder.device), grid, caches)
        hint = "its latents are finite, so the VAE overflowed; use bfloat16 or float32"
        _check_finite(pixels, "pixel", num_frames, hint)
        num_frames += pixels.shape[1]
        # Both names of this batch go before the next one is decoded.
        yield pixels
        del pixels


def _decode_batch(
    decoder: FrameDecoder, latents_BFCHW: Tensor, grid: TileGrid, caches: list[Any]
) -> Tensor:
    """Decode one temporal batch; the caches of each tile are carried on in place."""
    tiles = []
    for index, (rows, columns) in enumerate(grid):
        tile, caches[index] = decoder.decode_tile(latents_BFCHW[..., rows, columns], caches[index])
        tiles.append(tile)
    return blend_tiles(tiles, grid, decoder.tiles)


def _move(latents: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and latents.device.type == "cpu":
        latents = latents.pin_memory()
    return latents.to(device, non_blocking=True)


def _to_rgb(pixels_BFCHW: Tensor) -> Frames:
    """[-1, 1] -> uint8, with the scaling to [0, 1] in the decoder's own precision as diffusers."""
    unit_FHWC = (pixels_BFCHW[0] * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float()
    return (unit_FHWC * 255).round().to(torch.uint8).contiguous().cpu().numpy()


def _check_finite(values_BFCHW: Tensor, kind: str, first_frame: int, hint: str) -> None:
    finite = torch.isfinite(values_BFCHW)
    if finite.all():
        return
    frame = int((~finite.all(dim=4).all(dim=3).all(dim=2).all(dim=0)).nonzero()[0])
    raise NonFiniteError(f"{kind} frame {first_frame + frame} holds NaN or infinity: {hint}")
