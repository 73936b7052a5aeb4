"""From latents to encoded segments, in one pass through a stretch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from torch import Tensor

from glc_ray.config import EncodeSpec
from glc_ray.media.contact_sheet import Thumbnails
from glc_ray.media.decode import Frames
from glc_ray.media.formats import choose
from glc_ray.media.frame_scores import FrameScores, SegmentScores
from glc_ray.media.segments import SegmentReport, encode_segment
from glc_ray.media.stretch import Segment, Stretch, decode_stretch, wanted_frames
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
    scores: SegmentScores


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
    on_frames: Callable[[int], None] | None = None,
) -> Iterator[WrittenSegment]:
    """Decode a stretch and encode its segments; frames never leave this process.

    Args:
        decoder: a loaded VAE.
        latents_BFCHW: (1, K, C, H, W) final latents of the whole video.
        stretch: segments to make.
        folder: where their files go.
        num_frames: of the file, for its contact sheet.
        fps: frames per second.
        settings: how frames are compressed, and which part of them.
        warmup, tiles: see ``decode_stretch``.
        on_frames: called with the number of frames of each temporal batch that is encoded.

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
        first = wanted_frames(segment, settings.frames).start
        first_frame = segment.first_frame + first - (settings.frames or (0,))[0]
        pictures, scores = Thumbnails(num_frames, first_frame=first_frame), FrameScores()
        path = folder / f"{segment.index:05d}{encoding.segment_suffix}"
        report = encode_segment(
            scores.watch(pictures.watch(_frames_of(segment, decoded, settings, on_frames))),
            path,
            first_frame=first_frame,
            fps=fps,
            settings=settings,
        )
        yield WrittenSegment(segment, path, report, pictures.to_png(), scores.scores())


def _frames_of(
    segment: Segment,
    decoded: Iterator[tuple[int, Frames]],
    settings: EncodeSpec,
    on_frames: Callable[[int], None] | None,
) -> Iterator[Frames]:
    """The segment's wanted frames, cropped; it is whole before the next one is begun."""
    wanted, done = wanted_frames(segment, settings.frames), 0
    left, top, width, height = settings.crop or (0, 0, None, None)
    rows = slice(top, None if height is None else top + height)
    columns = slice(left, None if width is None else left + width)
    while done < segment.num_frames:
        index, frames = next(decoded)
        assert index == segment.index, "segments out of order"
        kept = frames[max(wanted.start - done, 0) : max(wanted.stop - done, 0)]
        done += len(frames)
        if len(kept):
            yield kept[:, rows, columns]
            if on_frames is not None:
                on_frames(len(kept))
