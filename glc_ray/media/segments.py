"""A video in pieces: each is encoded by itself, wherever it is decoded, and all are joined.

A segment begins with a key frame that nothing before it is needed for (a closed group of pictures),
and its bytes depend on its frames, the settings and the ffmpeg alone. Joining copies packets and
decodes nothing, except for previews: WebP and GIF cannot be joined, so their segments are lossless
FFV1 and are encoded together at the join (GIF after a pass that chooses its palette from all
frames).

How it is checked that a join shows no seam (``tests/media/test_segments.py``, against the same
frames encoded in one piece with the same settings): the number of frames and the time of every
frame are the same, exactly, also for segments of one frame, which is fewer than B-frames wait for;
packets come in order; decoded pixels are bit-equal where every frame is by itself (ProRes, FFV1,
pictures); elsewhere the 32 frames around a join are no further from the source than those of the
one piece by 0.3 dB of PSNR, and the slow part of the error jumps no more at a join than between any
two frames.

What a segment costs: its key frame, and the encoder's view of what follows. x264 spends less on
frames that it does not see used, so the last ten or so of a segment are a little coarser. On a
drifting texture with grain the frames around a join lose at most 0.1 dB with segments of 49 frames,
0.2 dB with 33 and 0.34 dB with 17; on a pan without any grain, of 41 dB, 1 dB with 24.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from glc_ray.config import EncodeSpec
from glc_ray.media.decode import Frames
from glc_ray.media.encode import Timed, encode_frames
from glc_ray.media.formats import choose
from glc_ray.media.join import SegmentFile, join_segments
from glc_ray.media.whole_file import whole_file, whole_folder

__all__ = ["JoinReport", "SegmentFile", "SegmentReport", "encode_segment", "join"]


@dataclass(frozen=True)
class SegmentReport:
    """What was written, and what the time was spent on."""

    num_frames: int
    width: int
    height: int
    decode_s: float
    """Seconds of waiting for frames."""
    encode_s: float
    """All other seconds."""


@dataclass(frozen=True)
class JoinReport:
    """What was joined."""

    num_frames: int
    join_s: float


def encode_segment(
    batches: Iterable[Frames],
    path: Path,
    *,
    first_frame: int,
    fps: float | Fraction,
    settings: EncodeSpec,
    program: str | None = None,
) -> SegmentReport:
    """Write one segment; it appears at ``path`` whole or not at all.

    Args:
        batches: its frames (frames, height, width, 3) RGB of the bit depth that ``formats.check``
            says, taken one batch at a time.
        path: the file, named with ``Encoding.segment_suffix``, or the folder.
        first_frame: its first frame in the whole video; the file names of a folder begin there, and
            nothing else depends on it.
        fps: frames per second.
        settings: those of the whole video.
        program: an ffmpeg; see ``find_ffmpeg``.

    Raises:
        UserError: no ffmpeg, settings that it cannot do, or a size that the format cannot hold.
        ValueError: no frames, or frames of different sizes.
        FFmpegError: ffmpeg failed; the message ends with its last lines.
    """
    encoding = choose(settings, program=program)
    started = time.perf_counter()
    source = Timed(batches)
    is_folder = not encoding.segment_suffix
    with whole_folder(path) if is_folder else whole_file(path) as partial:
        size = encode_frames(
            source,
            partial,
            fps=fps,
            encoding=encoding.segment,
            muxer=encoding.segment_muxer,
            first_frame=first_frame,
        )
    encode_s = time.perf_counter() - started - source.waited_s
    return SegmentReport(size.num_frames, size.width, size.height, source.waited_s, encode_s)


def join(
    segments: Sequence[SegmentFile],
    path: Path,
    *,
    fps: float | Fraction,
    settings: EncodeSpec,
    metadata: Mapping[str, str] | None = None,
    program: str | None = None,
) -> JoinReport:
    """Make one video of its segments; it appears at ``path`` whole or not at all.

    The segments stay as they are, so that a join that was killed can be done again.

    Args:
        segments: all of them in the order of time, each with the number of frames that it holds.
        path: the file, or the folder.
        fps: frames per second.
        settings: those that the segments were encoded with.
        metadata: tags of the file; values may hold any characters.
        program: an ffmpeg; see ``find_ffmpeg``.

    Raises:
        UserError: no ffmpeg, or settings that it cannot do.
        ValueError: no segments, or a folder lacks a frame.
        FFmpegError: ffmpeg failed, or a segment does not hold the frames that it should.
    """
    encoding = choose(settings, program=program)
    started = time.perf_counter()
    join_segments(segments, path, fps=fps, encoding=encoding, metadata=metadata or {})
    num_frames = sum(segment.num_frames for segment in segments)
    return JoinReport(num_frames, time.perf_counter() - started)
