"""The formats that a video can be written in, and what the settings of one come to.

What is stored: YUV formats hold BT.709, limited range, converted and tagged; RGB formats hold the
model's own full-range values, which are display values (sRGB). EXR is the exception, because what
reads it expects linear light: the sRGB curve is undone, and half floats are stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from glc_ray.config import EncodeSpec
from glc_ray.media import encoders as e
from glc_ray.media.encoders import PIXEL_FORMATS, Encoder, PixelFormat
from glc_ray.media.ffmpeg import FFMPEG_VARIABLE, encoders_of, find_ffmpeg
from glc_ray.protocols import UserError


@dataclass(frozen=True)
class Format:
    """A kind of file, or of folder of pictures."""

    name: str
    suffix: str
    """Of the file; empty for a folder."""
    muxer: str
    encoders: tuple[Encoder, ...]
    """The first is the default."""
    join: Literal["copy", "files", "encode"]
    """How segments become one: their packets are copied; they are folders whose files are put
    together; or they are lossless and encoded together at the join."""
    max_side: int
    """Pixels."""
    tags: bool = True
    """The file itself holds title and comment (a folder has them in a file beside the frames)."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the muxer."""
    frame_suffix: str = ""
    """Of each file of a folder."""


_LOOP = {"loop": 0}  # for ever
_TABLE = (
    Format("h264", ".mp4", "mp4", (e.X264, *e.H264_DEVICES), "copy", 16384),
    # QuickTime and Safari play H.265 under this name only.
    Format(
        "h265", ".mp4", "mp4", (e.X265, *e.H265_DEVICES), "copy", 8192, options={"tag:v": "hvc1"}
    ),
    Format("vp9", ".webm", "webm", (e.VPX_VP9, *e.VP9_DEVICES), "copy", 65535),
    Format("av1", ".mp4", "mp4", (e.SVT_AV1, e.AOM_AV1, *e.AV1_DEVICES), "copy", 16384),
    Format("prores", ".mov", "mov", (e.PRORES_KS,), "copy", 65535),
    Format("ffv1", ".mkv", "matroska", (e.FFV1,), "copy", 32767),
    Format("png", "", "image2", (e.PNG,), "files", 65535, False, frame_suffix=".png"),
    Format("tiff", "", "image2", (e.TIFF,), "files", 65535, False, frame_suffix=".tiff"),
    Format("exr", "", "image2", (e.EXR,), "files", 65535, False, frame_suffix=".exr"),
    Format("webp", ".webp", "webp", (e.WEBP,), "encode", 16383, False, options=_LOOP),
    Format("gif", ".gif", "gif", (e.GIF,), "encode", 65535, False, options=_LOOP),
)
_SUFFIXES = {"mp4": ".mp4", "mov": ".mov", "matroska": ".mkv", "image2": ""}
FORMATS = {format.name: format for format in _TABLE}


@dataclass(frozen=True)
class Encoding:
    """Settings whose every choice is made and possible with the ffmpeg at hand."""

    format: Format
    encoder: Encoder
    crf: int | None
    preset: str | None
    pix_fmt: str
    threads: int
    program: str
    """The ffmpeg."""

    @property
    def pixels(self) -> PixelFormat:
        return PIXEL_FORMATS[self.pix_fmt]

    @property
    def bit_depth(self) -> Literal[8, 16]:
        """Of the frames that are to be encoded: uint8, or uint16 where the file holds more."""
        return 8 if self.pixels.bits == 8 else 16

    @property
    def segment(self) -> Encoding:
        """How a segment is encoded: a preview's are lossless, all others are as the whole."""
        if self.format.join != "encode":
            return self
        return Encoding(FORMATS["ffv1"], e.FFV1, None, None, "bgr0", self.threads, self.program)

    @property
    def segment_suffix(self) -> str:
        """Of the file of one segment; empty for a folder."""
        return _SUFFIXES[self.segment_muxer]

    @property
    def segment_muxer(self) -> str:
        """Container of one segment.

        WebM rounds times to milliseconds, and a whole that is put together of rounded times is not
        the one-piece file: its segments are in MP4. (So does Matroska, for which the join counts
        frames, because QuickTime would lose FFV1's colour range.)
        """
        if self.format.join == "encode":
            return "mov"
        return "mp4" if self.format.muxer == "webm" else self.format.muxer

    @property
    def options(self) -> dict[str, Any]:
        """ffmpeg's options for the encoder, without pixel format and colour."""
        options: dict[str, Any] = {"vcodec": self.encoder.name, "threads": self.threads}
        quality = self.encoder.quality
        if quality is not None and self.crf is not None:
            options[quality.option] = 100 - self.crf if quality.rises else self.crf
        if self.preset is not None:
            options[self.encoder.preset_option] = self.preset
        own = {**self.encoder.options, **self.encoder.pixel_options.get(self.pix_fmt, {})}
        for option, value in own.items():
            is_text = isinstance(value, str)
            options[option] = value.format(threads=self.threads) if is_text else value
        return options

    def check_size(self, width: int, height: int) -> None:
        """An error rather than padding: sizes here are multiples of the VAE's spatial ratio, so
        that an odd side is a mistake, which a black line at the edge would hide.

        Raises:
            UserError: the format cannot hold a picture of this size.
        """
        if max(width, height) > self.format.max_side:
            raise UserError(
                f"the picture is {width} x {height} pixels, but encode.format = "
                f"{self.format.name!r} holds at most {self.format.max_side} a side; use another "
                "format, or a smaller model.width or model.height"
            )
        across, down = self.pixels.width_divisor, self.pixels.height_divisor
        if width % across == 0 and height % down == 0:
            return
        halved, needed = (
            ("colour across", "an even width") if down == 1 else ("colour", "even sides")
        )
        smaller = f"{width // across * across} x {height // down * down}"
        larger = f"{-(-width // across) * across} x {-(-height // down) * down}"
        raise UserError(
            f"the picture is {width} x {height} pixels, but {self.pix_fmt} halves the {halved} and "
            f"needs {needed}; use {smaller} or {larger}{self._whole_colour()}"
        )

    def _whole_colour(self) -> str:
        """Another pixel format that takes any size, as the end of a sentence."""
        for name in self.encoder.pixel_formats:
            pixels = PIXEL_FORMATS[name]
            if pixels.width_divisor == 1 and pixels.bits >= self.pixels.bits:
                return f", or encode.pix_fmt = {name!r}, which takes any size"
        return ""


def check(settings: EncodeSpec, width: int, height: int, *, program: str | None = None) -> Encoding:
    """Find mistakes of the settings before anything is decoded.

    Whether a hardware encoder finds its device shows only when it starts.

    Args:
        settings: of the specification.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
        program: an ffmpeg; see ``find_ffmpeg``.

    Raises:
        UserError: no ffmpeg, an encoder that it lacks, or a value that the encoder does not take.
        FFmpegError: ffmpeg does not list its encoders.
    """
    encoding = choose(settings, program=program)
    encoding.check_size(width, height)
    return encoding


def choose(settings: EncodeSpec, *, program: str | None = None) -> Encoding:
    """Make every choice that the settings leave open; ``check`` without the picture's size."""
    program = find_ffmpeg(program)
    format = FORMATS[settings.format]
    encoder = _encoder(format, settings.encoder, program)
    return Encoding(
        format,
        encoder,
        _crf(encoder, settings.crf),
        _preset(encoder, settings.preset),
        _pix_fmt(encoder, settings.pix_fmt),
        settings.threads,
        program,
    )


def _encoder(format: Format, name: str | None, program: str) -> Encoder:
    names = [encoder.name for encoder in format.encoders]
    if name is not None and name not in names:
        raise UserError(
            f"encode.encoder = {name!r}: encode.format = {format.name!r} is written by "
            f"{_or(names)}; use one of these, or leave the key out for {names[0]}"
        )
    encoder = format.encoders[0 if name is None else names.index(name)]
    there = encoders_of(program)
    if encoder.name not in there:
        key = f"encode.format = {format.name!r}" if name is None else f"encode.encoder = {name!r}"
        others = [other for other in names if other in there]
        raise UserError(
            f"{key}: the ffmpeg {program} lacks the encoder {encoder.name}; "
            + (f"use encode.encoder = {_or(map(repr, others))}, or " if others else "")
            + f"name an ffmpeg that has it by {FFMPEG_VARIABLE}=/path/to/ffmpeg"
        )
    if format.join == "encode" and e.FFV1.name not in there:
        raise UserError(
            f"encode.format = {format.name!r}: the ffmpeg {program} lacks the encoder "
            f"{e.FFV1.name}, which its segments need; name an ffmpeg that has it by "
            f"{FFMPEG_VARIABLE}=/path/to/ffmpeg"
        )
    return encoder


def _crf(encoder: Encoder, crf: int | None) -> int | None:
    quality = encoder.quality
    if quality is None:
        if crf is not None:
            raise UserError(
                f"encode.crf = {crf}: {encoder.name} has no quality to choose; leave the key out"
            )
        return None
    if crf is not None and not quality.best <= crf <= quality.worst:
        default = "its own rate" if quality.default is None else str(quality.default)
        raise UserError(
            f"encode.crf = {crf}: {encoder.name} takes {quality.best} (best) to {quality.worst} "
            f"(smallest); leave the key out for {default}"
        )
    return quality.default if crf is None else crf


def _preset(encoder: Encoder, preset: str | None) -> str | None:
    if preset is None or preset in encoder.presets:
        return encoder.preset if preset is None else preset
    if not encoder.presets:
        raise UserError(
            f"encode.preset = {preset!r}: {encoder.name} has no presets; leave the key out"
        )
    raise UserError(
        f"encode.preset = {preset!r}: {encoder.name} has {_or(encoder.presets)}; "
        f"leave the key out for {encoder.preset}"
    )


def _pix_fmt(encoder: Encoder, pix_fmt: str | None) -> str:
    default = encoder.pixel_formats[0]
    if pix_fmt is not None and pix_fmt not in encoder.pixel_formats:
        raise UserError(
            f"encode.pix_fmt = {pix_fmt!r}: {encoder.name} is used with "
            f"{_or(encoder.pixel_formats)}; leave the key out for {default}"
        )
    return pix_fmt or default


def _or(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} or {last}" if most else str(last)
