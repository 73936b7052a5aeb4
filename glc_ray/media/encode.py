"""Frames to a file or a folder of pictures, by ffmpeg.

The same frames, settings and ffmpeg give the same bytes. Encoders write their number of threads
into the stream, so that is a setting, never the number of the machine's cores.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import ffmpeg
import numpy as np
from numpy.typing import NDArray

from glc_ray.media.decode import Frames
from glc_ray.media.ffmpeg import FFmpegProcess
from glc_ray.media.formats import Encoding
from glc_ray.media.muxing import file_url, frame_pattern, output_options

Rate: TypeAlias = float | Fraction

_BT709 = {"color_primaries": "bt709", "color_trc": "bt709", "colorspace": "bt709"}
_SRGB = {"color_primaries": "bt709", "color_trc": "iec61966-2-1", "colorspace": "gbr"}


class VideoWriter:
    """A context that encodes the frames written to it; an error inside it kills ffmpeg."""

    def __init__(
        self,
        path: Path,
        *,
        width: int,
        height: int,
        fps: Rate,
        encoding: Encoding,
        muxer: str,
        first_frame: int = 0,
    ) -> None:
        """Start ffmpeg.

        Args:
            path: the file, or the folder, which must be there; written in place
                (``encode_segment`` writes atomically).
            width: in pixels.
            height: in pixels.
            fps: frames per second.
            encoding: how frames are compressed. GIF is made from lossless segments only, because
                its palette is chosen from all frames.
            muxer: ffmpeg's name of the container.
            first_frame: number of the first frame, in the file names of a folder.

        Raises:
            UserError: the format cannot hold this size.
        """
        encoding.check_size(width, height)
        self._dtype = np.dtype(np.uint8 if encoding.bit_depth == 8 else np.uint16)
        self._linear = encoding.pixels.bits == 32
        self._frame_shape = (height, width, 3)
        self.num_frames = 0
        source = ffmpeg.input(
            "pipe:0",
            format="rawvideo",
            pixel_format=_raw_format(encoding),
            video_size=(width, height),
            framerate=str(Fraction(str(fps))),
        )
        options = {**encoding.options, **output_options(encoding.format, muxer)}
        options |= {"color_range": "pc"} if encoding.pixels.rgb else {"color_range": "tv", **_BT709}
        if encoding.format.suffix:
            target = file_url(path)
        else:
            target = frame_pattern(path, encoding.format)
            options["start_number"] = first_frame
        output = _converted(source, encoding).output(target, **options)
        if encoding.encoder.upload:
            # ffmpeg finds the device; one that is missing is an error when it starts.
            output = output.global_args(
                *("-init_hw_device", "vaapi=device", "-filter_hw_device", "device")
            )
        self._process = FFmpegProcess(output, encoding.program)

    def write(self, frames: Frames) -> None:
        """Encode frames (frames, height, width, 3) RGB of the encoding's bit depth.

        Raises:
            ValueError: another size or type.
            FFmpegError: ffmpeg died.
        """
        if frames.dtype != self._dtype or frames.shape[1:] != self._frame_shape:
            raise ValueError(
                f"expected {self._dtype} frames (n, {', '.join(map(str, self._frame_shape))}), "
                f"got {frames.dtype} {frames.shape}"
            )
        if len(frames):
            raw = _linear_planes(frames) if self._linear else np.ascontiguousarray(frames)
            self._process.write(raw.data.cast("B"))
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


@dataclass(frozen=True)
class Size:
    """Of what was encoded."""

    num_frames: int
    width: int
    height: int


def encode_frames(
    batches: Iterable[Frames], path: Path, *, encoding: Encoding, **options: Any
) -> Size:
    """Write frames to ``path`` in place; options and errors are those of ``VideoWriter``."""
    source = iter(batches)
    first = next(source, None)
    if first is None:
        raise ValueError(f"no frames for {path}")
    _, height, width, _ = first.shape
    with VideoWriter(path, width=width, height=height, encoding=encoding, **options) as writer:
        for frames in chain([first], source):
            writer.write(frames)
    return Size(writer.num_frames, width, height)


class Timed(Iterator[Frames]):
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


def _raw_format(encoding: Encoding) -> str:
    """ffmpeg's name of the pixels that go into its pipe."""
    if encoding.pixels.bits == 32:
        return "gbrpf32le"
    return "rgb24" if encoding.bit_depth == 8 else "rgb48le"


def _converted(source: Any, encoding: Encoding) -> Any:
    """Full-range RGB to the stored pixels, converted and tagged. YUV is limited-range BT.709:
    without the tags players guess by height, without the conversion ffmpeg uses the BT.601 matrix.
    """
    if encoding.pixels.rgb:
        tags = {**_SRGB, "range": "pc"}
        if encoding.pixels.bits == 32:
            tags["color_trc"] = "linear"
        return source.filter("format", encoding.pix_fmt).filter("setparams", **tags)
    precise = "bicubic+accurate_rnd+full_chroma_int+bitexact"
    converted = source.filter("scale", out_color_matrix="bt709", out_range="tv", flags=precise)
    tags = {**_BT709, "range": "tv"}
    tagged = converted.filter("format", encoding.pix_fmt).filter("setparams", **tags)
    return tagged.filter("hwupload") if encoding.encoder.upload else tagged


def _linear_planes(frames: Frames) -> NDArray[np.float32]:
    """(n, height, width, RGB) display values -> (n, GBR, height, width) linear light."""
    return np.stack([_linear_light()[frames[..., colour]] for colour in (1, 2, 0)], axis=1)


@lru_cache
def _linear_light() -> NDArray[np.float32]:
    """The sRGB curve (IEC 61966-2-1) undone, for each of 65,536 values."""
    value = np.arange(65536) / 65535
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    return linear.astype(np.dtype("<f4"))
