"""Segments to one video: by copying their packets, by linking their files, or by one encode."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg

from glc_ray.media.ffmpeg import FFmpegError, FFmpegProcess
from glc_ray.media.formats import Encoding
from glc_ray.media.muxing import file_url, frame_name, output_options, write_folder_tags
from glc_ray.media.whole_file import whole_file, whole_folder
from glc_ray.store.scratch import scratch_folder


@dataclass(frozen=True)
class SegmentFile:
    """One piece of a video, as a file or a folder, and how many frames it should hold."""

    path: Path
    num_frames: int


def join_segments(
    segments: Sequence[SegmentFile],
    path: Path,
    *,
    fps: float | Fraction,
    encoding: Encoding,
    metadata: Mapping[str, str],
) -> None:
    """Make one video of segments; it appears at ``path`` whole or not at all.

    The segments stay as they are, so that a join that was killed can be done again.

    Raises:
        ValueError: no segments, or a folder lacks a frame.
        FFmpegError: ffmpeg failed, or a segment does not hold the frames that it should.
    """
    if not segments:
        raise ValueError(f"no segments for {path}")
    if encoding.format.join == "files":
        with whole_folder(path) as partial:
            _link_frames(segments, partial, encoding)
            num_frames = sum(segment.num_frames for segment in segments)
            write_folder_tags(partial, fps, num_frames, metadata)
        return
    with (
        whole_file(path) as partial,
        scratch_folder() as folder,
    ):
        pieces = _concatenated(segments, Path(folder), fps)
        # No tag of the first segment's.
        options = {
            **output_options(encoding.format, encoding.format.muxer, metadata),
            "map_metadata": -1,
        }
        if encoding.format.join == "copy":
            options["bsf:v"] = _timing(encoding, fps)
            copy = pieces.output(file_url(partial), vcodec="copy", **options)
            _copy(copy, Path(folder), encoding, segments)
        else:
            nowhere = pieces.output("-", vcodec="copy", format="null")
            _copy(nowhere, Path(folder), encoding, segments)
            picture = _with_palette(pieces, Path(folder), encoding)
            _run(picture.output(file_url(partial), **encoding.options, **options), encoding)


def _concatenated(segments: Sequence[SegmentFile], folder: Path, fps: float | Fraction) -> Any:
    """ffmpeg's concat demuxer, with exact times.

    A segment's length is given in microseconds, as the difference of two rounded points in time, so
    that roundings do not add up: no packet is half a microsecond from where it should be, which the
    container's clock rounds away.
    """
    rate, frames, lines = Fraction(str(fps)), 0, ["ffconcat version 1.0"]
    for segment in segments:
        start = round(frames / rate * 1_000_000)
        frames += segment.num_frames
        length = round(frames / rate * 1_000_000) - start
        escaped = file_url(segment.path).replace("'", "'\\''")
        lines += [f"file '{escaped}'", f"duration {length}us"]
    listing = folder / "segments.txt"
    listing.write_text("\n".join(lines) + "\n", encoding="utf-8", errors="surrogateescape")
    # A segment comes from storage: a playlist in its place must not name other files, or servers.
    kinds = {"format_whitelist": "concat,mov,matroska", "protocol_whitelist": "file"}
    return ffmpeg.input(file_url(listing), format="concat", safe=0, **kinds)


def _timing(encoding: Encoding, fps: float | Fraction) -> str:
    """The bitstream filter that mends the times of packets, by ffmpeg's expressions."""
    if encoding.segment_muxer == "matroska":
        # Segments hold rounded times; every packet is a frame, in order.
        return f"setts=ts=round(N/({Fraction(str(fps))})/TB)"
    # A segment of fewer frames than B-frames wait for is decoded later than the next one begins.
    # One tick of the clock is enough, because a frame has many.
    return "setts=pts=PTS:dts='if(eq(N,0),DTS,max(DTS,PREV_OUTDTS+1))'"


def _with_palette(pieces: Any, folder: Path, encoding: Encoding) -> Any:
    """The pictures of a preview; for GIF by the best 256 colours of the whole video.

    They are chosen in a pass of their own: ffmpeg would keep all frames in memory to choose and use
    them in one.
    """
    if encoding.pix_fmt != "pal8":
        return pieces.filter("format", encoding.pix_fmt)
    palette = folder / "palette.png"
    options = {"format": "image2", "vcodec": "png", "update": 1, "frames:v": 1}
    _run(pieces.filter("palettegen").output(file_url(palette), **options), encoding)
    return ffmpeg.filter([pieces, ffmpeg.input(file_url(palette))], "paletteuse")


def _copy(output: Any, folder: Path, encoding: Encoding, segments: Sequence[SegmentFile]) -> None:
    """Copy packets and count them: ffmpeg may pass over what it cannot read."""
    progress = folder / "progress"
    _run(output.global_args("-progress", file_url(progress)), encoding)
    reported = [line for line in progress.read_text().splitlines() if line.startswith("frame=")]
    joined = int(reported[-1].removeprefix("frame=")) if reported else 0
    expected = sum(segment.num_frames for segment in segments)
    if joined != expected:
        raise FFmpegError(
            f"{len(segments)} segments of {expected} frames gave {joined} frames; one of them is "
            f"broken, from {segments[0].path} on"
        )


def _run(output: Any, encoding: Encoding) -> None:
    process = FFmpegProcess(output.global_args("-xerror"), encoding.program)
    try:
        process.finish()
    finally:
        process.kill()


def _link_frames(segments: Sequence[SegmentFile], folder: Path, encoding: Encoding) -> None:
    """Put the frames of all segments into one folder: by hard links, which cost nothing and leave
    the segments whole, or by copies where the file system has none."""
    first = min((int(file.stem.removeprefix("frame_")) for file in _frames(segments[0])), default=0)
    for segment in segments:
        for frame in range(first, first + segment.num_frames):
            name = frame_name(frame, encoding.format)
            if not (segment.path / name).is_file():
                raise ValueError(f"segment {segment.path} lacks {name}")
            try:
                os.link(segment.path / name, folder / name)
            except OSError:
                shutil.copyfile(segment.path / name, folder / name)
        first += segment.num_frames


def _frames(segment: SegmentFile) -> list[Path]:
    return list(segment.path.glob("frame_*"))
