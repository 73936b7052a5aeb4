"""From latents to encoded segments, in one pass through a stretch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from glc_ray.config import EncodeSpec
from glc_ray.media.contact_sheet import Thumbnails
from glc_ray.media.decode import Frames
from glc_ray.media.formats import choose
from glc_ray.media.segments import SegmentReport, encode_segment
from glc_ray.media.stretch import Segment, Stretch, decode_stretch
from glc_ray.media.tiles import TileDecoder
from glc_ray.protocols import FrameDecoder


@dataclass(frozen=True)
class WrittenSegment:
    """A segment's file, and what else is wanted of its frames."""

    segment: Segment
    path: Path
    report: SegmentReport
    pictures: dict[int, bytes]
    """Those of the contact sheet, PNG by frame."""


def write_segments(
    decoder: FrameDecoder,
    latents_BFCHW: Tensor,
    stretch: Stretch,
    folder: Path,
    *,
    num_frames: int,
    fps: float | Fraction,
    settings: EncodeSpec,
    warmup: int | None = None,
    tiles: TileDecoder | None = None,
) -> Iterator[WrittenSegment]:
    """Decode a stretch and encode its segments; frames never leave this process.

    Args:
        decoder: a loaded VAE.
        latents_BFCHW: (1, K, C, H, W) final latents of the whole video.
        stretch: segments to make.
        folder: where their files go.
        num_frames: of the whole video.
        fps: frames per second.
        settings: how frames are compressed.
        warmup, tiles: see ``decode_stretch``.

    Yields:
        Each segment as soon as its file is whole.

    Raises:
        UserError: no ffmpeg, settings that it cannot do, or a size that the format cannot hold.
        NonFiniteError: latents or pixels hold NaN or infinity.
        FFmpegError: ffmpeg failed; the message ends with its last lines.
    """
    encoding = choose(settings)
    decoded = decode_stretch(
        decoder, latents_BFCHW, stretch, warmup=warmup, bit_depth=encoding.bit_depth, tiles=tiles
    )
    for segment in stretch:
        pictures = Thumbnails(num_frames, first_frame=segment.first_frame)
        path = folder / f"{segment.index:05d}{encoding.segment_suffix}"
        report = encode_segment(
            pictures.watch(_frames_of(segment, decoded)),
            path,
            first_frame=segment.first_frame,
            fps=fps,
            settings=settings,
        )
        yield WrittenSegment(segment, path, report, pictures.to_png())


def _frames_of(segment: Segment, decoded: Iterator[tuple[int, Frames]]) -> Iterator[Frames]:
    """The segment's frames and no more: it is whole before the next one is begun."""
    left = segment.num_frames
    while left > 0:
        index, frames = next(decoded)
        assert index == segment.index, "segments out of order"
        left -= len(frames)
        yield frames
