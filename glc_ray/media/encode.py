"""Frames to a video file: H.264 in MP4, for players, browsers and editors alike.

The same frames, settings and ffmpeg give the same bytes. x264 writes its number of threads into
the stream, so that is a setting, never the number of the machine's cores.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any

import ffmpeg
import numpy as np

from glc_ray.media.decode import Frames
from glc_ray.media.ffmpeg import FFmpegProcess, find_ffmpeg
from glc_ray.media.whole_file import whole_file
from glc_ray.protocols import UserError

_BT709 = {"color_primaries": "bt709", "color_trc": "bt709", "colorspace": "bt709"}

# Tags that MP4 has atoms for; every player shows them.
_MP4_TAGS = {"title", "artist", "album", "comment", "copyright", "date", "description", "genre"}


@dataclass(frozen=True)
class EncodeSettings:
    """How frames are compressed."""

    crf: int = 18
    """Quality of x264: 0 lossless, 51 worst."""
    preset: str = "medium"
    """Effort of x264, ``ultrafast`` to ``veryslow``."""
    threads: int = 2
    """Threads of x264; part of the bytes of the file."""


@dataclass(frozen=True)
class EncodeReport:
    """What was written, and what the time was spent on."""

    num_frames: int
    width: int
    height: int
    size_bytes: int
    decode_s: float
    """Seconds of waiting for frames."""
    encode_s: float
    """All other seconds: ffmpeg works meanwhile, so this is what encoding adds to decoding."""


class VideoWriter:
    """A context that encodes the frames written to it; an error inside it kills ffmpeg."""

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        fps: float | Fraction,
        settings: EncodeSettings | None = None,
        metadata: Mapping[str, str] | None = None,
        program: str | None = None,
    ) -> None:
        """Start ffmpeg.

        Args:
            path: the MP4 file, written in place (``encode_video`` writes atomically).
            width: in pixels, even.
            height: in pixels, even.
            fps: frames per second.
            settings: how frames are compressed.
            metadata: tags of the container; values may hold any characters.
            program: an ffmpeg; see ``find_ffmpeg``.

        Raises:
            UserError: no ffmpeg, or a side is odd.
        """
        _check_even(width, height)
        self._frame_shape = (height, width, 3)
        self.num_frames = 0
        source = ffmpeg.input(
            "pipe:0",
            format="rawvideo",
            pixel_format="rgb24",
            video_size=(width, height),
            framerate=str(Fraction(str(fps))),
        )
        # file: and the absolute path keep "-x.mp4" and "a:b.mp4" from being read as an option or a
        # protocol.
        output = _to_yuv420p_bt709(source).output(
            f"file:{path.absolute()}", **_options(settings or EncodeSettings(), metadata or {})
        )
        self._process = FFmpegProcess(output, find_ffmpeg(program))

    def write(self, frames: Frames) -> None:
        """Encode frames (frames, height, width, 3) uint8 RGB.

        Raises:
            ValueError: another size or type.
            FFmpegError: ffmpeg died.
        """
        if frames.dtype != np.uint8 or frames.shape[1:] != self._frame_shape:
            raise ValueError(
                f"expected uint8 frames (n, {', '.join(map(str, self._frame_shape))}), "
                f"got {frames.dtype} {frames.shape}"
            )
        if len(frames):
            self._process.write(np.ascontiguousarray(frames).data.cast("B"))
            self.num_frames += len(frames)

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self._process.finish()
        finally:
            self._process.kill()


def encode_video(
    batches: Iterable[Frames],
    path: Path,
    *,
    fps: float | Fraction,
    settings: EncodeSettings | None = None,
    metadata: Mapping[str, str] | None = None,
    program: str | None = None,
) -> EncodeReport:
    """Write a video; the file appears at ``path`` whole or not at all.

    Args:
        batches: frames (frames, height, width, 3) uint8 RGB, taken one batch at a time.
        path: the MP4 file.
        fps: frames per second.
        settings: how frames are compressed.
        metadata: tags of the container; values may hold any characters.
        program: an ffmpeg; see ``find_ffmpeg``.

    Raises:
        UserError: no ffmpeg, or a side is odd.
        ValueError: no frames, or frames of different sizes.
        FFmpegError: ffmpeg failed; the message ends with its last lines.
    """
    program = find_ffmpeg(program)  # before the first frame is decoded
    started = time.perf_counter()
    source = _Timed(batches)
    first = next(source, None)
    if first is None:
        raise ValueError(f"no frames for {path}")
    _, height, width, _ = first.shape
    options: dict[str, Any] = {"fps": fps, "settings": settings, "metadata": metadata}
    with whole_file(path) as partial:
        with VideoWriter(partial, width=width, height=height, program=program, **options) as writer:
            for frames in chain([first], source):
                writer.write(frames)
        size_bytes = partial.stat().st_size
    encode_s = time.perf_counter() - started - source.waited_s
    return EncodeReport(writer.num_frames, width, height, size_bytes, source.waited_s, encode_s)


class _Timed(Iterator[Frames]):
    """Counts the seconds that the consumer waits."""

    def __init__(self, batches: Iterable[Frames]) -> None:
        self._batches = iter(batches)
        self.waited_s = 0.0

    def __next__(self) -> Frames:
        started = time.perf_counter()
        try:
            return next(self._batches)
        finally:
            self.waited_s += time.perf_counter() - started


def _check_even(width: int, height: int) -> None:
    """An error rather than padding: sizes here are multiples of the VAE's spatial ratio, so that an
    odd side is a mistake, which a black line at the edge would hide."""
    if width % 2 or height % 2:
        raise UserError(
            f"the picture is {width} x {height} pixels, but yuv420p halves the colour and needs "
            f"even sides; use {width // 2 * 2} x {height // 2 * 2} or "
            f"{-(-width // 2) * 2} x {-(-height // 2) * 2}"
        )


def _to_yuv420p_bt709(source: Any) -> Any:
    """Full-range RGB to limited-range BT.709, converted and tagged: without the tags players guess
    by height, without the conversion ffmpeg uses the BT.601 matrix."""
    precise = "bicubic+accurate_rnd+full_chroma_int+bitexact"
    converted = source.filter("scale", out_color_matrix="bt709", out_range="tv", flags=precise)
    tags = {**_BT709, "range": "tv"}
    return converted.filter("format", "yuv420p").filter("setparams", **tags)


def _options(settings: EncodeSettings, metadata: Mapping[str, str]) -> dict[str, Any]:
    """ffmpeg's options of the output file."""
    movflags = "+faststart"
    if not metadata.keys() <= _MP4_TAGS:
        movflags += "+use_metadata_tags"  # or ffmpeg drops the keys that MP4 does not know
    # ffmpeg-python takes each option once; ffmpeg ignores what follows "metadata:g".
    tags = {
        f"metadata:g:{index}": f"{_checked_key(key)}={_as_argument(value)}"
        for index, (key, value) in enumerate(metadata.items())
    }
    return {
        "format": "mp4",
        "vcodec": "libx264",
        "crf": settings.crf,
        "preset": settings.preset,
        "threads": settings.threads,
        "movflags": movflags,
        # No version of the muxer in the file.
        "fflags": "+bitexact",
        "flags": "+bitexact",
        "color_range": "tv",
        **_BT709,
        **tags,
    }


def _checked_key(key: str) -> str:
    if not key.replace("_", "").isalnum() or not key.isascii():
        raise ValueError(f"metadata key {key!r}: use ASCII letters, digits and _")
    return key


def _as_argument(value: str) -> str:
    """What an argument of a program can hold: no NUL, and only what the locale can encode."""
    encoding = sys.getfilesystemencoding()
    return str(value).replace("\0", "�").encode(encoding, "replace").decode(encoding)
