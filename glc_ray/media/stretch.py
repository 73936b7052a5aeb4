"""A video in stretches of time: which frames are decoded by whom, and from where on.

A *segment* is what is encoded into one file: a number of latent frames that depends on the
specification alone. A *stretch* is a run of segments that one decoder decodes. It begins with a
*warm-up*: latents whose frames are dropped, after which the decoder's caches are those of a decode
from frame 0. Layout suffixes: B batch, F frames, C channels, H height, W width.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from torch import Tensor

from glc_ray.media.decode import Frames, stream_pixels, to_frames
from glc_ray.media.tiles import TileDecoder
from glc_ray.protocols import DecoderFacts, FrameDecoder

SEGMENT_LATENT_FRAMES = 60
"""Of a segment unless the specification says otherwise: 240 frames, 30 s of CogVideoX."""


@dataclass(frozen=True)
class Segment:
    """The frames of one file."""

    index: int
    start: int
    """First latent frame."""
    stop: int
    """Latent frame after the last."""
    first_frame: int
    """First pixel frame in the video."""
    num_frames: int
    """Pixel frames; of the last segment without those that the video does not want."""


Stretch = tuple[Segment, ...]
"""Segments one after another that one decoder decodes."""


def segments(
    facts: DecoderFacts,
    num_latent_frames: int,
    *,
    num_frames: int,
    segment_latent_frames: int = SEGMENT_LATENT_FRAMES,
) -> tuple[Segment, ...]:
    """Divide a video into segments of whole temporal batches, as equal as these allow.

    Args:
        facts: of the VAE.
        num_latent_frames: K, without the leading frames that are not decoded.
        num_frames: pixel frames of the video; what K latent frames give beyond is dropped.
        segment_latent_frames: at most so many latent frames in a segment, but a temporal batch at
            least; the first one may take one more.

    Raises:
        ValueError: K latent frames decode to fewer than ``num_frames`` frames.
    """
    assert facts.batch_size in (1, 2), "longer batches begin with a frame of their own each"
    available = facts.frames_before(num_latent_frames, num_latent_frames)
    if available < num_frames:
        raise ValueError(f"the latents decode to {available} frames; {num_frames} are needed")
    starts = [batch.start for batch in facts.temporal_batches(num_latent_frames)]
    per_segment = max(segment_latent_frames // facts.batch_size, 1)
    count = -(-len(starts) // per_segment)
    borders = [starts[index * len(starts) // count] for index in range(count)]
    found = []
    for index, (start, stop) in enumerate(pairwise([*borders, num_latent_frames])):
        first, last = (facts.frames_before(at, num_latent_frames) for at in (start, stop))
        if first < num_frames:
            found.append(Segment(index, start, stop, first, min(last, num_frames) - first))
    return tuple(found)


def wanted_frames(segment: Segment, frames: tuple[int, int] | None) -> range:
    """Which of a segment's frames are encoded, counted from its first; empty for none.

    Args:
        segment: of the video.
        frames: first pixel frame of the part that is encoded, and the one after its last; None is
            the whole video.
    """
    start, stop = frames or (0, segment.first_frame + segment.num_frames)
    return range(
        max(start - segment.first_frame, 0), min(stop - segment.first_frame, segment.num_frames)
    )


def stretches(
    wanted: Sequence[Segment], num_decoders: int, *, warmup: int = 0
) -> tuple[Stretch, ...]:
    """Runs of neighbouring segments, so that the longest run, warm-up included, is short.

    Args:
        wanted: segments in order; where some are missing in between (they are there already), a
            stretch ends.
        num_decoders: at most so many stretches, unless gaps make more.
        warmup: latent frames decoded in front of a stretch; fewer where the video begins.
    """
    if not wanted:
        return ()
    # In latent frames to decode; the least limit that needs no more decoders than there are.
    least = max(latent_frames_to_decode((segment,), warmup) for segment in wanted)
    limits = range(least, wanted[-1].stop + warmup + 1)
    enough = bisect_left(
        limits, True, key=lambda limit: len(_runs(wanted, limit, warmup)) <= num_decoders
    )
    return _runs(wanted, limits[min(enough, len(limits) - 1)], warmup)


def latent_frames_to_decode(stretch: Stretch, warmup: int) -> int:
    """Latent frames that a decoder goes through for a stretch, warm-up included."""
    return stretch[-1].stop - stretch[0].start + min(warmup, stretch[0].start)


def decode_stretch(
    decoder: FrameDecoder,
    latents_BFCHW: Tensor,
    stretch: Stretch,
    *,
    warmup: int | None = None,
    bit_depth: Literal[8, 16] = 8,
    tiles: TileDecoder | None = None,
) -> Iterator[tuple[int, Frames]]:
    """Decode a stretch to RGB; arguments and errors as ``stretch_pixels``, for one video.

    Yields:
        (segment index, frames (frames, height, width, 3) in ``bit_depth`` bits).
    """
    if latents_BFCHW.shape[0] != 1:
        raise ValueError(f"one video at a time, got a batch of {latents_BFCHW.shape[0]}")
    pixels = stretch_pixels(decoder, latents_BFCHW, stretch, warmup=warmup, tiles=tiles)
    return ((index, to_frames(batch, bit_depth)) for index, batch in pixels)


def stretch_pixels(
    decoder: FrameDecoder,
    latents_BFCHW: Tensor,
    stretch: Stretch,
    *,
    warmup: int | None = None,
    tiles: TileDecoder | None = None,
) -> Iterator[tuple[int, Tensor]]:
    """Decode a stretch to floating point, one temporal batch at a time.

    The temporal batches are those of the whole video, so that a stretch begins where one of them
    does; caches are carried on from segment to segment.

    Args:
        decoder: a loaded VAE.
        latents_BFCHW: (B, K, C, H, W) final latents of the whole video, of which only those of the
            stretch and its warm-up are touched.
        stretch: what to decode; at least one segment.
        warmup: latent frames before it whose output is dropped, rounded up to whole temporal
            batches and to one for Wan, whose first latent frame gives one frame; fewer where the
            video begins. None is as many as make the result bit-equal to a decode of the whole
            video, whatever the weights.
        tiles: who decodes tiles; the decoder itself unless given.

    Yields:
        (segment index, pixels (B, frames, 3, height, width)), as ``stream_pixels`` gives them.

    Raises:
        NonFiniteError: latents or pixels hold NaN or infinity.
    """
    warmup = decoder.facts.exact_warmup if warmup is None else warmup
    warmup = max(warmup, decoder.facts.least_warmup)
    start, stop = stretch[0].start, stretch[-1].stop
    batches = [
        batch
        for batch in decoder.facts.temporal_batches(latents_BFCHW.shape[1])
        if batch.stop > start - warmup and batch.start < stop
    ]
    owners = [
        next((segment for segment in stretch if segment.start <= batch.start < segment.stop), None)
        for batch in batches
    ]
    remaining = {segment.index: segment.num_frames for segment in stretch}
    decoded = stream_pixels(decoder, latents_BFCHW, batches=batches, tiles=tiles)
    # No name holds a batch while the next one is decoded.
    for owner in owners:
        if owner is None:
            next(decoded)
        elif remaining[owner.index] > 0:
            yield owner.index, _take(next(decoded), remaining, owner.index)


def _take(pixels_BFCHW: Tensor, remaining: dict[int, int], index: int) -> Tensor:
    pixels_BFCHW = pixels_BFCHW[:, : remaining[index]]
    remaining[index] -= pixels_BFCHW.shape[1]
    return pixels_BFCHW


def _runs(wanted: Sequence[Segment], limit: int, warmup: int) -> tuple[Stretch, ...]:
    """As few runs as possible of at most ``limit`` latent frames each."""
    runs: list[Stretch] = []
    for segment in wanted:
        longer = (*runs[-1], segment) if runs and runs[-1][-1].stop == segment.start else None
        if longer and latent_frames_to_decode(longer, warmup) <= limit:
            runs[-1] = longer
        else:
            runs.append((segment,))
    return tuple(runs)
