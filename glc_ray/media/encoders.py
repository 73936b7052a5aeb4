"""ffmpeg's encoders that formats are made with: what each can hold and how its options are called.

The first pixel format of an encoder is its default. All option names, presets and pixel formats are
those of ``ffmpeg -h encoder=NAME``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class PixelFormat:
    """How ffmpeg lays out a picture."""

    bits: int
    """Of one colour of one pixel."""
    rgb: bool = False
    """Full-range RGB; otherwise limited-range YUV."""
    width_divisor: int = 1
    """Pixels side by side that share their colour."""
    height_divisor: int = 1
    """Pixels above each other that share their colour."""


PIXEL_FORMATS = {
    "yuv420p": PixelFormat(8, width_divisor=2, height_divisor=2),
    "yuv422p": PixelFormat(8, width_divisor=2),
    "yuv444p": PixelFormat(8),
    "nv12": PixelFormat(8, width_divisor=2, height_divisor=2),
    "yuv420p10le": PixelFormat(10, width_divisor=2, height_divisor=2),
    "yuv422p10le": PixelFormat(10, width_divisor=2),
    "yuv444p10le": PixelFormat(10),
    "p010le": PixelFormat(10, width_divisor=2, height_divisor=2),
    "yuv420p12le": PixelFormat(12, width_divisor=2, height_divisor=2),
    "yuv422p12le": PixelFormat(12, width_divisor=2),
    "yuv444p12le": PixelFormat(12),
    "pal8": PixelFormat(8, rgb=True),
    "rgb24": PixelFormat(8, rgb=True),
    "bgr0": PixelFormat(8, rgb=True),
    "bgra": PixelFormat(8, rgb=True),
    "gbrp10le": PixelFormat(10, rgb=True),
    "gbrp12le": PixelFormat(12, rgb=True),
    "gbrp16le": PixelFormat(16, rgb=True),
    "rgb48be": PixelFormat(16, rgb=True),
    "rgb48le": PixelFormat(16, rgb=True),
    "gbrpf32le": PixelFormat(32, rgb=True),
}


@dataclass(frozen=True)
class Quality:
    """What ``encode.crf`` is called, and its range."""

    option: str
    best: int
    worst: int
    default: int | None
    """None leaves the option out."""
    rises: bool = False
    """The encoder's own scale is 100 minus ours: 100 is best."""


@dataclass(frozen=True)
class Encoder:
    """One of ffmpeg's encoders."""

    name: str
    pixel_formats: tuple[str, ...]
    quality: Quality | None = None
    """None: there is nothing to choose (lossless, or a palette)."""
    presets: tuple[str, ...] = ()
    preset: str | None = None
    """The default."""
    preset_option: str = "preset"
    options: Mapping[str, Any] = field(default_factory=dict)
    """Always given; ``{threads}`` in a value is the number of threads."""
    pixel_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Given with this pixel format."""
    upload: bool = False
    """Takes pictures in the device's memory only."""


_YUV_8_10 = ("yuv420p", "yuv422p", "yuv444p", "yuv420p10le", "yuv422p10le", "yuv444p10le")
_YUV_12 = ("yuv420p12le", "yuv422p12le", "yuv444p12le")
_SPEEDS = ("veryfast", "faster", "fast", "medium", "slow", "slower")
_X26X_PRESETS = ("ultrafast", "superfast", *_SPEEDS, "veryslow", "placebo")
_NVENC_PRESETS = tuple(f"p{effort}" for effort in range(1, 8))
_QSV_PRESETS = (*_SPEEDS, "veryslow")


def _efforts(last: int) -> tuple[str, ...]:
    return tuple(map(str, range(last + 1)))


def _nvenc(name: str, pixel_formats: tuple[str, ...], worst: int, default: int) -> Encoder:
    # 0 is nvenc's word for "choose yourself".
    quality = Quality("cq", 1, worst, default)
    options = {"rc": "vbr", "b:v": 0, "forced-idr": 1}
    return Encoder(name, pixel_formats, quality, _NVENC_PRESETS, "p5", options=options)


def _qsv(name: str, pixel_formats: tuple[str, ...], default: int) -> Encoder:
    quality = Quality("global_quality", 1, 51, default)
    return Encoder(name, pixel_formats, quality, _QSV_PRESETS, "medium")


def _vaapi(name: str, pixel_formats: tuple[str, ...], quality: Quality) -> Encoder:
    return Encoder(name, pixel_formats, quality, options={"rc_mode": "CQP"}, upload=True)


X264 = Encoder("libx264", _YUV_8_10, Quality("crf", 0, 51, 18), _X26X_PRESETS, "medium")

X265 = Encoder(
    "libx265",
    (*_YUV_8_10, *_YUV_12),
    Quality("crf", 0, 51, 20),
    _X26X_PRESETS,
    "medium",
    options={
        # Threads are part of the bytes; info would write the machine's CPU flags into them.
        "x265-params": "open-gop=0:info=0:pools={threads}:frame-threads={threads}:log-level=error",
    },
)

VPX_VP9 = Encoder(
    "libvpx-vp9",
    (*_YUV_8_10, *_YUV_12),
    Quality("crf", 0, 63, 24),
    _efforts(5),
    "2",
    preset_option="cpu-used",
    options={"b:v": 0, "deadline": "good", "row-mt": 0},
)

SVT_AV1 = Encoder(
    "libsvtav1",
    ("yuv420p", "yuv420p10le"),
    # 0 is ffmpeg's word for "not given".
    Quality("crf", 1, 63, 24),
    _efforts(13),
    "6",
    # Temporal filters would change single frames, most of all at the ends of a segment.
    options={"svtav1-params": "lp={threads}:irefresh-type=2:enable-tf=0"},
)

AOM_AV1 = Encoder(
    "libaom-av1",
    (*_YUV_8_10, *_YUV_12),
    Quality("crf", 0, 63, 24),
    _efforts(8),
    "4",
    preset_option="cpu-used",
    options={"b:v": 0, "row-mt": 0},
)

PRORES_KS = Encoder(
    "prores_ks",
    ("yuv422p10le", "yuv444p10le"),
    # Without it the profile's own bit rate.
    Quality("q:v", 1, 64, None),
    # Editors of Apple's look at the vendor.
    options={"vendor": "apl0"},
    pixel_options={"yuv422p10le": {"profile": "hq"}, "yuv444p10le": {"profile": "4444"}},
)

FFV1 = Encoder(
    "ffv1",
    (
        *("gbrp16le", "gbrp12le", "gbrp10le", "bgr0"),
        *("yuv420p", "yuv422p", "yuv444p", "yuv422p10le", "yuv444p10le"),
    ),
    # Every frame by itself, with a checksum for each of four slices.
    options={"level": 3, "g": 1, "slices": 4, "slicecrc": 1},
)

PNG = Encoder("png", ("rgb24", "rgb48be"), options={"pred": "mixed"})
TIFF = Encoder("tiff", ("rgb48le",), options={"compression_algo": "deflate"})
# Without ":v" it would be the container's format.
EXR = Encoder("exr", ("gbrpf32le",), options={"format:v": "half", "compression": "zip16"})
WEBP = Encoder("libwebp_anim", ("bgra",), Quality("quality", 0, 100, 20, rises=True))
GIF = Encoder("gif", ("pal8",))

H264_DEVICES = (
    _nvenc("h264_nvenc", ("yuv420p", "yuv444p"), 51, 19),
    _qsv("h264_qsv", ("nv12",), 19),
    _vaapi("h264_vaapi", ("nv12",), Quality("qp", 1, 51, 19)),
)
H265_DEVICES = (
    _nvenc("hevc_nvenc", ("yuv420p", "p010le", "yuv444p"), 51, 21),
    _qsv("hevc_qsv", ("nv12", "p010le"), 21),
    _vaapi("hevc_vaapi", ("nv12", "p010le"), Quality("qp", 1, 51, 21)),
)
VP9_DEVICES = (
    _qsv("vp9_qsv", ("nv12", "p010le"), 24),
    _vaapi("vp9_vaapi", ("nv12", "p010le"), Quality("global_quality", 1, 255, 60)),
)
AV1_DEVICES = (
    _nvenc("av1_nvenc", ("yuv420p", "p010le"), 63, 26),
    _qsv("av1_qsv", ("nv12", "p010le"), 24),
    _vaapi("av1_vaapi", ("nv12", "p010le"), Quality("global_quality", 1, 255, 60)),
)
