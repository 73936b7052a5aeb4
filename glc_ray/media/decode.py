"""Latents to frames as a stream: one temporal batch of all tiles is alive at a time.

Layout suffixes: B batch, F frames, C channels, H height, W width.

Between temporal batches only the convolution caches of each tile are kept, so memory does not grow
with the video. The floating-point result is bit-equal to the VAE's own decode of the whole video.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from glc_ray.media.tiles import TileDecoder, TileGrid, TileWorker, blend_tiles, tile_grid
from glc_ray.protocols import FrameDecoder

Frames: TypeAlias = NDArray[np.uint8] | NDArray[np.uint16]
"""RGB frames (frames, height, width, 3), full range."""


class NonFiniteError(ArithmeticError):
    """Latents or pixels hold NaN or infinity; the message names the frame."""


def stream_decode(
    decoder: FrameDecoder, latents_BFCHW: Tensor, bit_depth: Literal[8, 16] = 8
) -> Iterator[Frames]:
    """Decode one video to RGB, one temporal batch at a time.

    8 bits are rounded as ``CogVideoXPipeline`` does with ``output_type="pil"``.

    Args:
        decoder: a loaded VAE.
        latents_BFCHW: (1, K, C, H, W) final latents on any device. Only a temporal batch of them
            is touched at a time.
        bit_depth: of one colour of one pixel.

    Yields:
        Frames (frames, height, width, 3) uint8 or uint16, each batch as soon as it is decoded.

    Raises:
        ValueError: more than one video.
        NonFiniteError: latents or pixels hold NaN or infinity.
    """
    if latents_BFCHW.shape[0] != 1:
        raise ValueError(f"one video at a time, got a batch of {latents_BFCHW.shape[0]}")
    # map() holds no reference to the batch that it gave away.
    return map(partial(to_frames, bit_depth=bit_depth), stream_pixels(decoder, latents_BFCHW))


def to_frames(pixels_BFCHW: Tensor, bit_depth: Literal[8, 16] = 8) -> Frames:
    """Pixels (1, frames, 3, height, width), about [-1, 1], as RGB frames: see ``stream_decode``."""
    return _to_rgb(pixels_BFCHW) if bit_depth == 8 else _to_rgb48(pixels_BFCHW)


def decode_alone(decoder: FrameDecoder, latents_BFCHW: Tensor) -> NDArray[np.uint8]:
    """The picture of one latent frame, wherever in a video it is from, (height, width, 3) uint8.

    It is decoded as if a video began with it, without those before it that a causal VAE looks back
    at: one picture where a frame in the middle gives several, close to what the decode of the whole
    shows there, and good enough to see what will come of it. Bit-equal to the VAE's decode of this
    frame.

    Args:
        decoder: a loaded VAE.
        latents_BFCHW: (1, 1, C, H, W) on any device.

    Raises:
        NonFiniteError: latents or pixels hold NaN or infinity.
    """
    assert latents_BFCHW.shape[:2] == (1, 1)
    (frames,) = stream_decode(decoder, latents_BFCHW)
    return frames[0]


def stream_pixels(
    decoder: FrameDecoder,
    latents_BFCHW: Tensor,
    *,
    batches: Iterable[slice] | None = None,
    tiles: TileDecoder | None = None,
) -> Iterator[Tensor]:
    """Decode to floating point, one temporal batch at a time.

    Args:
        decoder: a loaded VAE.
        latents_BFCHW: (B, K, C, H, W) final latents on any device.
        batches: temporal batches of the video to decode, one after another; the first of them
            without caches. All of them unless given.
        tiles: who decodes tiles; the decoder itself unless given.

    Yields:
        Pixels (B, frames, 3, height, width), about [-1, 1], in the decoder's precision and on its
        device.

    Raises:
        NonFiniteError: latents or pixels hold NaN or infinity.
    """
    _, num_latent_frames, _, height, width = latents_BFCHW.shape
    grid = tile_grid(decoder.facts.tiles, height, width)
    tiles = TileWorker(decoder) if tiles is None else tiles
    first, num_frames = True, 0
    for batch in decoder.facts.temporal_batches(num_latent_frames) if batches is None else batches:
        if first:
            num_frames = decoder.facts.frames_before(batch.start, num_latent_frames)
        latents = latents_BFCHW[:, batch]
        _check_finite(latents, "latent", batch.start, "the denoising went wrong before the decode")
        pixels = _decode_batch(tiles, latents, grid, decoder, first)
        hint = "its latents are finite, so the VAE overflowed; use bfloat16 or float32"
        _check_finite(pixels, "pixel", num_frames, hint)
        num_frames += pixels.shape[1]
        first = False
        # Both names of this batch go before the next one is decoded.
        yield pixels
        del pixels


def _decode_batch(
    tiles: TileDecoder, latents_BFCHW: Tensor, grid: TileGrid, decoder: FrameDecoder, first: bool
) -> Tensor:
    """Decode one temporal batch of the picture."""
    latents = {
        place: latents_BFCHW[..., rows, columns] for place, (rows, columns) in enumerate(grid)
    }
    pixels = tiles.decode_tiles(latents, first=first)
    ordered = [pixels[place].to(decoder.device) for place in range(len(grid))]
    return blend_tiles(ordered, grid, decoder.facts.tiles)


def _to_rgb(pixels_BFCHW: Tensor) -> Frames:
    """[-1, 1] -> uint8, with the scaling to [0, 1] in the decoder's own precision as diffusers."""
    unit_FHWC = (pixels_BFCHW[0] * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float()
    return (unit_FHWC * 255).round().to(torch.uint8).contiguous().cpu().numpy()


def _to_rgb48(pixels_BFCHW: Tensor) -> Frames:
    """[-1, 1] -> uint16, scaled in float32: float16 and bfloat16 have steps of their own in [0, 1]
    that 16 bits would show."""
    unit_FHWC = (pixels_BFCHW[0].float() * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    return (unit_FHWC * 65535).round().to(torch.uint16).contiguous().cpu().numpy()


def _check_finite(values_BFCHW: Tensor, kind: str, first_frame: int, hint: str) -> None:
    finite = torch.isfinite(values_BFCHW)
    if finite.all():
        return
    frame = int((~finite.all(dim=4).all(dim=3).all(dim=2).all(dim=0)).nonzero()[0])
    raise NonFiniteError(f"{kind} frame {first_frame + frame} holds NaN or infinity: {hint}")
