"""The table of formats against ffmpeg's own help, and what is stored against what was meant."""

from __future__ import annotations

import re
import subprocess
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import pytest
from pydantic import ValidationError

from glc_ray.config import EncodeSpec
from glc_ray.media.encoders import PIXEL_FORMATS
from glc_ray.media.ffmpeg import FFmpegError, encoders_of, find_ffmpeg
from glc_ray.media.formats import FORMATS, check, choose
from glc_ray.media.segments import encode_segment
from glc_ray.protocols import UserError
from tests.media.clips import encode, moving_texture, names, psnr, read, read_folder

ENCODERS = {encoder.name: encoder for format in FORMATS.values() for encoder in format.encoders}
PROGRAM = find_ffmpeg()
# ffmpeg's options for all encoders; the others are an encoder's own.
GENERIC = {"b", "g", "level", "q", "global_quality", "slices", "profile"}


@lru_cache
def help_of(encoder: str) -> str:
    command = [PROGRAM, "-hide_banner", "-h", f"encoder={encoder}"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("name", ENCODERS)
class TestTable:
    """The table of encoders says what ``ffmpeg -h encoder=NAME`` says."""

    @pytest.fixture(autouse=True)
    def _built_in(self, name):
        if name not in encoders_of(PROGRAM):
            pytest.skip(f"the ffmpeg here has no {name}")

    def test_options(self, name):
        encoder = ENCODERS[name]
        options = {*encoder.options, *(o for own in encoder.pixel_options.values() for o in own)}
        options |= {encoder.quality.option} if encoder.quality else set()
        options |= {encoder.preset_option} if encoder.presets else set()
        known = set(re.findall(r"^ +-([\w-]+) ", help_of(name), re.MULTILINE))
        assert {option.removesuffix(":v") for option in options} <= known | GENERIC

    def test_pixel_formats(self, name):
        encoder = ENCODERS[name]
        listed = set(re.search(r"pixel formats: (.*)", help_of(name)).group(1).split())
        # Of pictures in a device's memory ffmpeg says no more than that.
        assert listed == {"vaapi"} if encoder.upload else set(encoder.pixel_formats) <= listed
        assert set(encoder.pixel_formats) <= PIXEL_FORMATS.keys()

    def test_range_of_the_quality(self, name):
        quality = ENCODERS[name].quality
        if quality is None:
            return
        option = rf"^ +-{quality.option} .*\(from (\S+) to (\S+)\)"
        found = re.search(option, help_of(name), re.MULTILINE)
        if found and found.group(2) not in ("FLT_MAX", "INT_MAX"):
            assert float(found.group(1)) <= quality.best < quality.worst <= float(found.group(2))
        assert quality.default is None or quality.best <= quality.default <= quality.worst

    def test_presets(self, name):
        encoder = ENCODERS[name]
        assert encoder.preset is None or encoder.preset in encoder.presets
        section = re.search(r"^ +-preset .*\n((?:     \w+ .*\n)+)", help_of(name), re.MULTILINE)
        if section and encoder.presets:
            assert set(encoder.presets) <= set(re.findall(r"^ +(\w+)", section.group(1), re.M))


@pytest.mark.parametrize("name", PIXEL_FORMATS)
def test_pixel_formats_are_described_as_libav_does(name):
    described, format = PIXEL_FORMATS[name], av.VideoFormat(name)
    if name != "pal8":
        assert described.bits == format.components[0].bits
        assert described.rgb == format.is_rgb
    assert described.width_divisor == 64 // format.chroma_width(64)
    assert described.height_divisor == 64 // format.chroma_height(64)


def test_every_format_of_the_specification_is_in_the_table():
    formats = EncodeSpec.model_json_schema()["properties"]["format"]["enum"]
    assert formats == list(FORMATS)


# name, pixel format -> codec, stored pixels, (primaries, transfer, matrix, range).
BT709, SRGB = (1, 1, 1, 1), (1, 13, 0, 2)
STORED = {
    ("h264", None): ("h264", "yuv420p", BT709),
    ("h264", "yuv444p10le"): ("h264", "yuv444p10le", BT709),
    ("h265", None): ("hevc", "yuv420p", BT709),
    ("h265", "yuv422p10le"): ("hevc", "yuv422p10le", BT709),
    ("h265", "yuv420p12le"): ("hevc", "yuv420p12le", BT709),
    ("vp9", None): ("vp9", "yuv420p", BT709),
    ("vp9", "yuv420p10le"): ("vp9", "yuv420p10le", BT709),
    ("av1", None): ("av1", "yuv420p", BT709),
    ("av1", "yuv420p10le"): ("av1", "yuv420p10le", BT709),
    ("prores", None): ("prores", "yuv422p10le", BT709),
    ("prores", "yuv444p10le"): ("prores", "yuv444p12le", BT709),  # as its decoder calls it
    ("ffv1", None): ("ffv1", "gbrp16le", SRGB),
    ("ffv1", "bgr0"): ("ffv1", "bgr0", SRGB),
    ("ffv1", "yuv422p10le"): ("ffv1", "yuv422p10le", BT709),
}


@pytest.mark.parametrize(("name", "pix_fmt"), STORED)
def test_colours_are_converted_and_tagged(tmp_path, name, pix_fmt):
    settings = EncodeSpec(format=name, pix_fmt=pix_fmt)
    encoding = check(settings, 96, 64)
    source = moving_texture(3, encoding.bit_depth)
    path = tmp_path / f"v{encoding.format.suffix}"
    encode([source], path, settings=settings)
    codec_name, pixels, colour = STORED[name, pix_fmt]
    with av.open(str(path)) as container:
        codec = container.streams.video[0].codec_context
        next(container.decode(video=0))
        stored = codec.name.removeprefix("lib").split("dav1d")[0] or "av1"
        assert (stored, codec.pix_fmt) == (codec_name, pixels)
        found = (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range)
    assert found == colour
    assert psnr(read(path)[1], source).min() > 33


@pytest.mark.parametrize(("name", "pix_fmt"), [("prores", "yuv444p10le"), ("h265", "yuv444p10le")])
def test_ten_bits_hold_more_than_eight(tmp_path, name, pix_fmt):
    """A ramp of 16 bits over four levels of 8: more levels than that come back."""
    ramp = np.linspace(30000, 31028, 96).round().astype(np.uint16)
    source = np.broadcast_to(ramp[None, None, :, None], (1, 64, 96, 3))
    settings = EncodeSpec(format=name, pix_fmt=pix_fmt, crf=1)
    path = tmp_path / f"v{FORMATS[name].suffix}"
    encode([source], path, settings=settings)
    decoded = read(path, "rgb48le")[1]
    assert len(np.unique(decoded[0, 32, :, 1])) > 8
    assert np.abs(decoded.astype(int) - source).max() < 257


class TestPictures:
    def test_16_bit_png(self, tmp_path):
        settings, source = EncodeSpec(format="png", pix_fmt="rgb48be"), moving_texture(2, 16)
        encode([source], tmp_path / "v", settings=settings)
        np.testing.assert_array_equal(read_folder(tmp_path / "v", "rgb48le"), source)

    def test_png_says_that_it_is_srgb(self, tmp_path):
        encode([moving_texture(1)], tmp_path / "v", settings=EncodeSpec(format="png"))
        assert b"sRGB" in (tmp_path / "v" / "frame_000000.png").read_bytes()

    def test_exr_holds_linear_light_in_half_floats(self, tmp_path):
        source = np.zeros((1, 16, 16, 3), np.uint16)
        # IEC 61966-2-1: half of the display value is 0.214 of the light.
        source[..., 0], source[..., 1], source[..., 2] = 65535, 32768, 2621
        encode([source], tmp_path / "v", settings=EncodeSpec(format="exr"))
        data = (tmp_path / "v" / "frame_000000.exr").read_bytes()
        # Channel list: name, 0, type 1 for half.
        assert all(channel + b"\0\1\0\0\0" in data for channel in (b"R", b"G", b"B"))
        with av.open(str(tmp_path / "v" / "frame_000000.exr")) as container:
            frame = next(container.decode(video=0))
        # Not by PyAV's conversion, which goes by way of 16-bit integers.
        number = "<f2" if frame.format.name == "gbrpf16le" else "<f4"
        green, blue, red = (np.frombuffer(plane, number)[0] for plane in frame.planes)
        assert [red, green, blue] == pytest.approx([1.0, 0.21404, 0.04 / 12.92], rel=1e-3)
        linear = 8
        assert frame.color_trc == linear


def test_defaults_of_h264_are_what_they_were():
    encoding = check(EncodeSpec(), 96, 64)
    assert encoding.options == {"vcodec": "libx264", "threads": 2, "crf": 18, "preset": "medium"}
    assert (encoding.pix_fmt, encoding.bit_depth) == ("yuv420p", 8)


def test_a_preset_may_be_a_number():
    assert choose(EncodeSpec(format="av1", preset=4)).options["preset"] == "4"


def test_quality_falls_as_crf_rises_in_every_scale(tmp_path):
    for name in ("h265", "vp9", "av1", "prores", "webp"):
        sizes = []
        for crf in (8, 50):
            settings = EncodeSpec(format=name, crf=crf)
            source = moving_texture(4, check(settings, 96, 64).bit_depth)
            path = tmp_path / f"v{FORMATS[name].suffix}"
            encode([source], path, settings=settings)
            sizes.append(path.stat().st_size)
        assert sizes[1] < 0.7 * sizes[0], name


def message(*size: int, **settings) -> str:
    with pytest.raises(UserError) as error:
        check(EncodeSpec(**settings), *(size or (96, 64)))
    return str(error.value)


class TestMistakes:
    def test_odd_sides(self):
        assert message(47, 31) == (
            "the picture is 47 x 31 pixels, but yuv420p halves the colour and needs even sides; "
            "use 46 x 30 or 48 x 32, or encode.pix_fmt = 'yuv444p', which takes any size"
        )
        assert message(47, 31, format="prores") == (
            "the picture is 47 x 31 pixels, but yuv422p10le halves the colour across and needs an "
            "even width; use 46 x 31 or 48 x 31, or encode.pix_fmt = 'yuv444p10le', which takes "
            "any size"
        )
        assert message(48, 31, format="av1", pix_fmt="yuv420p10le") == (
            "the picture is 48 x 31 pixels, but yuv420p10le halves the colour and needs even "
            "sides; use 48 x 30 or 48 x 32"
        )
        for name in ("ffv1", "png", "tiff", "exr", "webp", "gif"):
            check(EncodeSpec(format=name), 47, 31)
        check(EncodeSpec(pix_fmt="yuv444p"), 47, 31)
        check(EncodeSpec(format="prores"), 48, 31)

    def test_a_picture_that_is_too_large(self):
        assert message(20000, 64, format="webp") == (
            "the picture is 20000 x 64 pixels, but encode.format = 'webp' holds at most 16383 a "
            "side; use another format, or a smaller model.width or model.height"
        )

    def test_quality_out_of_range(self):
        assert message(crf=52) == (
            "encode.crf = 52: libx264 takes 0 (best) to 51 (smallest); leave the key out for 18"
        )
        assert message(format="av1", crf=0) == (
            "encode.crf = 0: libsvtav1 takes 1 (best) to 63 (smallest); leave the key out for 24"
        )
        assert message(format="prores", crf=65) == (
            "encode.crf = 65: prores_ks takes 1 (best) to 64 (smallest); leave the key out for its "
            "own rate"
        )
        assert message(format="ffv1", crf=18) == (
            "encode.crf = 18: ffv1 has no quality to choose; leave the key out"
        )

    def test_unknown_presets(self):
        assert message(preset="turbo") == (
            "encode.preset = 'turbo': libx264 has ultrafast, superfast, veryfast, faster, fast, "
            "medium, slow, slower, veryslow or placebo; leave the key out for medium"
        )
        assert message(format="gif", preset="fast") == (
            "encode.preset = 'fast': gif has no presets; leave the key out"
        )

    def test_pixels_that_the_codec_cannot_hold(self):
        assert message(format="av1", pix_fmt="yuv444p") == (
            "encode.pix_fmt = 'yuv444p': libsvtav1 is used with yuv420p or yuv420p10le; leave the "
            "key out for yuv420p"
        )

    def test_an_encoder_of_another_format(self):
        assert message(encoder="libx265") == (
            "encode.encoder = 'libx265': encode.format = 'h264' is written by libx264, h264_nvenc, "
            "h264_qsv or h264_vaapi; use one of these, or leave the key out for libx264"
        )

    def test_an_unknown_format(self):
        with pytest.raises(ValidationError, match="'h264', 'h265', 'vp9'"):
            EncodeSpec(format="wmv")

    def test_encoders_that_ffmpeg_lacks(self, tmp_path, monkeypatch):
        program = tmp_path / "small"
        listing = " V....D libx264 H.264\\n V....D libaom-av1 AV1\\n A....D libopus Opus\\n"
        program.write_text(f"#!/bin/sh\nprintf '{listing}'\n")
        program.chmod(0o755)
        monkeypatch.setenv("GLC_RAY_FFMPEG", str(program))
        assert encoders_of(str(program)) == {"libx264", "libaom-av1"}
        assert check(EncodeSpec(), 96, 64).encoder.name == "libx264"
        assert message(format="h265") == (
            f"encode.format = 'h265': the ffmpeg {program} lacks the encoder libx265; name an "
            "ffmpeg that has it by GLC_RAY_FFMPEG=/path/to/ffmpeg"
        )
        assert message(encoder="h264_nvenc") == (
            f"encode.encoder = 'h264_nvenc': the ffmpeg {program} lacks the encoder h264_nvenc; "
            "use encode.encoder = 'libx264', or name an ffmpeg that has it by "
            "GLC_RAY_FFMPEG=/path/to/ffmpeg"
        )
        assert message(format="av1").startswith(
            f"encode.format = 'av1': the ffmpeg {program} lacks the encoder libsvtav1; use "
            "encode.encoder = 'libaom-av1', or name"
        )

    def test_a_program_that_is_no_ffmpeg(self, tmp_path):
        program = tmp_path / "broken"
        program.write_text("#!/bin/sh\necho library missing >&2\nexit 127\n")
        program.chmod(0o755)
        with pytest.raises(FFmpegError, match=r"(?s)-encoders failed with exit code 127:.*missing"):
            check(EncodeSpec(), 96, 64, program=str(program))

    def test_a_mistake_is_found_before_a_frame_is_decoded(self, tmp_path):
        def never():
            raise AssertionError("decoded")
            yield

        with pytest.raises(UserError, match=r"encode.crf = 99"):
            encode_segment(
                never(),
                tmp_path / "v.mp4",
                first_frame=0,
                fps=8,
                settings=EncodeSpec(crf=99),
            )

    def test_frames_of_the_wrong_depth(self, tmp_path):
        settings = EncodeSpec(format="prores")
        with pytest.raises(ValueError, match="expected uint16 frames"):
            encode_segment(
                [moving_texture(1)], tmp_path / "v.mov", first_frame=0, fps=8, settings=settings
            )
        assert names(tmp_path) == []

    @pytest.mark.parametrize("encoder", ["h264_nvenc", "h264_qsv", "h264_vaapi"])
    def test_a_device_that_is_not_there(self, tmp_path, encoder):
        if encoder not in encoders_of(PROGRAM) or list(Path("/dev").glob("nvidia*")):
            pytest.skip("this ffmpeg has no such encoder, or there may be a device")
        # A build that loads VA-API's library at run time aborts where it is missing.
        ended = r"^ffmpeg (failed with exit code \d+|was killed by signal 6):\n.+"
        with pytest.raises(FFmpegError, match=ended):
            encode_segment(
                [moving_texture(40)] * 10,
                tmp_path / "v.mp4",
                first_frame=0,
                fps=8,
                settings=EncodeSpec(encoder=encoder),
            )
        assert names(tmp_path) == []
