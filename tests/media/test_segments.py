"""Segments that are joined, against the same frames encoded in one piece."""

from __future__ import annotations

import json
import os
import signal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from glc_ray.config import EncodeSpec
from glc_ray.media.ffmpeg import FFmpegError, find_ffmpeg
from glc_ray.media.formats import FORMATS, check
from glc_ray.media.segments import SegmentFile, encode_segment, join
from tests.media.clips import (
    contents,
    encode,
    encode_in_one_piece,
    moving_texture,
    names,
    packet_times,
    psnr,
    read,
    read_folder,
    running_ffmpegs,
    segment_suffix,
)

# 8 frames a second divide all clocks, 29.97 none; odd lengths, so that B-frames are cut anywhere.
LENGTHS = (33, 33, 1, 2, 32)
JOINS = tuple(np.cumsum(LENGTHS)[:-1])
# Less effort than the default, for the tests' time; small pictures hide nothing of the borders.
SETTINGS = {
    "h264": EncodeSpec(),
    "h265": EncodeSpec(format="h265", preset="fast"),
    "vp9": EncodeSpec(format="vp9", preset="4"),
    "av1": EncodeSpec(format="av1", preset="8"),
    "prores": EncodeSpec(format="prores"),
    "ffv1": EncodeSpec(format="ffv1"),
}
TAGS = {"title": 'it\'s "a"; b=c:d,\\e 日本', "comment": "glc-ray seed=7 specification=abc"}


def write_segments(folder: Path, source: np.ndarray, settings: EncodeSpec, fps, lengths=LENGTHS):
    segments, start = [], 0
    for number, length in enumerate(lengths):
        path = folder / f"{number:06d}{segment_suffix(settings)}"
        frames = [source[start : start + length]]
        report = encode_segment(frames, path, first_frame=start, fps=fps, settings=settings)
        assert report.num_frames == length
        segments.append(SegmentFile(path, length))
        start += length
    return segments


@pytest.fixture(scope="module", params=[(name, 29.97) for name in SETTINGS] + [("h264", 8)])
def pair(request, tmp_path_factory):
    """(settings, frames per second, source, one piece, joined)."""
    name, fps = request.param
    folder, settings = tmp_path_factory.mktemp(name), SETTINGS[name]
    source = moving_texture(sum(LENGTHS), check(settings, 96, 64).bit_depth)
    suffix = FORMATS[name].suffix
    whole, joined = folder / f"whole{suffix}", folder / f"joined{suffix}"
    encode_in_one_piece([source], whole, fps=fps, settings=settings)
    segments = write_segments(folder, source, settings, fps)
    report = join(segments, joined, fps=fps, settings=settings, metadata=TAGS)
    assert report.num_frames == len(source)
    assert all(segment.path.exists() for segment in segments)
    return settings, fps, source, whole, joined


class TestJoin:
    def test_every_frame_is_there_at_its_time(self, pair):
        settings, fps, source, whole, joined = pair
        times, _ = read(joined)
        assert times == read(whole)[0]
        rate = Fraction(str(fps))
        exact = [frame / rate for frame in range(len(source))]
        if FORMATS[settings.format].muxer in ("webm", "matroska"):
            # Their clock ticks in milliseconds.
            assert all(
                abs(time - e) <= Fraction(1, 2000) for time, e in zip(times, exact, strict=True)
            )
        else:
            assert times == exact

    def test_packets_come_in_order(self, pair):
        *_, joined = pair
        decoding = [dts for dts, _ in packet_times(joined)]
        assert all(a < b for a, b in pairwise(decoding))
        assert all(dts <= pts for dts, pts in packet_times(joined))

    def test_pixels_around_the_joins_are_those_of_one_piece(self, pair):
        settings, _, source, whole, joined = pair
        one, together = read(whole)[1], read(joined)[1]
        if settings.format in ("prores", "ffv1"):
            # Every frame is by itself.
            np.testing.assert_array_equal(together, one)
        quality, expected = psnr(together, source), psnr(one, source)
        assert expected.mean() > 34
        for at in JOINS:
            # Two periods of AV1's layers, several of B-frames: they differ by themselves by 4 dB.
            around = slice(at - 16, at + 16)
            assert quality[around].mean() > expected[around].mean() - 0.3

    def test_there_is_no_seam(self, pair):
        """From one frame to the next the picture changes as the source does, at a join no less and
        no more than elsewhere."""
        _, _, source, _, joined = pair
        levels = source / (255 if source.dtype == np.uint8 else 65535)
        error = read(joined)[1] / 255 - levels
        # Slow errors are what an eye sees as a jump: means of 8 x 8 pixels.
        blocks = error.reshape(len(source), 8, 8, 12, 8, 3).mean((2, 4))
        jumps = np.abs(np.diff(blocks, axis=0)).mean((1, 2, 3))
        elsewhere = np.delete(jumps, np.array(JOINS) - 1)
        assert jumps[np.array(JOINS) - 1].max() < elsewhere.max() + 0.5 / 255

    def test_the_stream_is_that_of_one_piece_and_has_tags(self, pair):
        settings, _, _, whole, joined = pair
        (one, tags), (together, joined_tags) = (facts_of(path) for path in (whole, joined))
        assert together == one
        assert joined_tags == {**tags, **TAGS}
        if settings.format == "h265":
            assert together["tag"] == "hvc1"

    def test_header_comes_before_the_data(self, pair):
        *_, joined = pair
        if joined.suffix in (".mp4", ".mov"):
            data = joined.read_bytes()
            assert data.index(b"moov") < data.index(b"mdat")


def facts_of(path: Path) -> tuple[dict, dict]:
    """What a file says of its stream, and its tags."""
    with av.open(str(path)) as container:
        (stream,) = container.streams
        codec = stream.codec_context
        facts = {
            "codec": codec.name,
            "tag": codec.codec_tag,
            "header": codec.extradata,
            "pixels": codec.pix_fmt,
            "size": (codec.width, codec.height),
            "colour": (codec.color_primaries, codec.color_trc, codec.colorspace, codec.color_range),
            "rate": stream.average_rate,
            "start": stream.start_time,
        }
        return facts, {key.lower(): value for key, value in container.metadata.items()}


def test_lossless_segments_hold_every_bit(tmp_path):
    source = moving_texture(9, 16)
    segments = write_segments(tmp_path, source, SETTINGS["ffv1"], 8, (4, 5))
    join(segments, tmp_path / "v.mkv", fps=8, settings=SETTINGS["ffv1"])
    np.testing.assert_array_equal(read(tmp_path / "v.mkv", "rgb48le")[1], source)


def test_times_do_not_drift_over_many_segments(tmp_path):
    """A thousand roundings of half a microsecond would be more than the clock's tick."""
    settings, rate = SETTINGS["ffv1"].model_copy(update={"pix_fmt": "bgr0"}), Fraction("29.97")
    source = moving_texture(3)[:, :16, :16]
    (one,) = write_segments(tmp_path, source, settings, 29.97, (3,))
    join([one] * 1000, tmp_path / "v.mkv", fps=29.97, settings=settings)
    times = sorted(pts for _, pts in packet_times(tmp_path / "v.mkv"))
    assert len(times) == 3000
    error = [abs(time - frame / rate) for frame, time in enumerate(times)]
    assert max(error) <= Fraction(1, 2000)


@pytest.mark.parametrize("name", FORMATS)
def test_bytes_depend_on_frames_and_settings_alone(tmp_path, name):
    settings = SETTINGS.get(name, EncodeSpec(format=name))
    source = moving_texture(7, check(settings, 96, 64).bit_depth)
    paths = [tmp_path / f"{part}{segment_suffix(settings)}" for part in "ab"]
    reports = [
        encode_segment(batches, path, first_frame=40, fps=8, settings=settings)
        for path, batches in zip(paths, ([source], [source[:2], source[2:]]), strict=True)
    ]
    one, other = (contents(path) if path.is_dir() else path.read_bytes() for path in paths)
    assert one == other
    assert len(one) > 0
    assert (reports[0].num_frames, reports[0].width, reports[0].height) == (7, 96, 64)
    assert names(tmp_path) == [path.name for path in paths]


class TestFolders:
    @pytest.mark.parametrize(("name", "pixels"), [("png", "rgb24"), ("tiff", "rgb48le")])
    def test_frames_are_numbered_through_and_lossless(self, tmp_path, name, pixels):
        settings = EncodeSpec(format=name)
        source = moving_texture(9, check(settings, 96, 64).bit_depth)
        segments = write_segments(tmp_path, source, settings, 8, (4, 5))
        assert names(segments[1].path) == [f"frame_{n:06d}.{name}" for n in range(4, 9)]
        join(segments, tmp_path / "v", fps=8, settings=settings, metadata=TAGS)
        assert len(names(tmp_path / "v")) == 9 + 1
        np.testing.assert_array_equal(read_folder(tmp_path / "v", pixels), source)
        facts = json.loads((tmp_path / "v" / "video.json").read_text())
        assert facts == {"fps": "8", "num_frames": 9, **TAGS}
        encode_in_one_piece([source], tmp_path / "one", fps=8, settings=settings)
        assert contents(tmp_path / "one") == contents(tmp_path / "v", "frame_*")

    def test_a_frame_that_is_missing(self, tmp_path):
        settings = EncodeSpec(format="png")
        segments = write_segments(tmp_path, moving_texture(6), settings, 8, (3, 3))
        (segments[1].path / "frame_000004.png").unlink()
        with pytest.raises(ValueError, match=r"000001 lacks frame_000004.png"):
            join(segments, tmp_path / "v", fps=8, settings=settings)
        assert names(tmp_path) == ["000000", "000001"]

    def test_an_older_folder_is_replaced(self, tmp_path):
        (tmp_path / "50%d").mkdir()
        (tmp_path / "50%d" / "frame_000009.png").touch()
        settings = EncodeSpec(format="png")
        encode([moving_texture(2)], tmp_path / "50%d", settings=settings)
        assert names(tmp_path) == ["50%d"]
        found = names(tmp_path / "50%d")
        assert found == ["frame_000000.png", "frame_000001.png", "video.json"]


class TestPreviews:
    @pytest.mark.parametrize(("name", "worst"), [("webp", 30), ("gif", 24)])
    def test_segments_become_the_file_of_one_piece(self, tmp_path, name, worst):
        settings, source = EncodeSpec(format=name), moving_texture(10)
        segments = write_segments(tmp_path, source, settings, 8, (4, 6))
        np.testing.assert_array_equal(read(segments[0].path)[1], source[:4])
        join(segments, tmp_path / f"v.{name}", fps=8, settings=settings, metadata=TAGS)
        encode([source], tmp_path / f"one.{name}", settings=settings, metadata=TAGS)
        assert (tmp_path / f"v.{name}").read_bytes() == (tmp_path / f"one.{name}").read_bytes()
        with Image.open(tmp_path / f"v.{name}") as image:
            assert (image.n_frames, image.info["loop"]) == (10, 0)
            frames, length = [], 0
            for number in range(10):
                image.seek(number)
                frames.append(np.asarray(image.convert("RGB")))
                length += image.info["duration"]
        assert length == pytest.approx(1250, abs=10)
        assert psnr(np.stack(frames), source).min() > worst

    def test_the_palette_of_a_gif_is_that_of_the_whole_video(self, tmp_path):
        settings = EncodeSpec(format="gif")
        source = np.zeros((2, 16, 16, 3), np.uint8)
        source[0, ..., 0] = 255
        source[1, ..., 2] = 255
        segments = write_segments(tmp_path, source, settings, 8, (1, 1))
        join(segments, tmp_path / "v.gif", fps=8, settings=settings)
        np.testing.assert_array_equal(read(tmp_path / "v.gif")[1], source)


class TestFailures:
    @pytest.fixture
    def segments(self, tmp_path):
        (tmp_path / "parts").mkdir()
        return write_segments(tmp_path / "parts", moving_texture(12), EncodeSpec(), 8, (4, 4, 4))

    @pytest.mark.parametrize("bad", ["missing", "empty", "cut", "other"])
    def test_a_broken_segment(self, tmp_path, segments, bad):
        path = segments[1].path
        data = path.read_bytes()
        if bad == "missing":
            path.unlink()
        elif bad == "other":
            encode_segment([moving_texture(3)], path, first_frame=4, fps=8, settings=EncodeSpec())
        else:
            path.write_bytes(data[: len(data) // 2] if bad == "cut" else b"")
        with pytest.raises(FFmpegError):
            join(segments, tmp_path / "v.mp4", fps=8, settings=EncodeSpec())
        assert names(tmp_path) == ["parts"]

    def test_a_segment_of_too_few_frames_is_named(self, tmp_path, segments):
        wrong = [*segments[:2], SegmentFile(segments[2].path, 5)]
        with pytest.raises(FFmpegError) as error:
            join(wrong, tmp_path / "v.mp4", fps=8, settings=EncodeSpec())
        assert str(error.value) == (
            "3 segments of 13 frames gave 12 frames; one of them is broken, from "
            f"{segments[0].path} on"
        )

    def test_no_segments(self, tmp_path):
        with pytest.raises(ValueError, match="no segments for"):
            join([], tmp_path / "v.mp4", fps=8, settings=EncodeSpec())

    @pytest.mark.parametrize("name", ["h264", "png"])
    def test_ffmpeg_is_killed_in_the_middle(self, tmp_path, name):
        settings = EncodeSpec(format=name)

        def frames():
            yield moving_texture(2)
            for child in running_ffmpegs():
                os.kill(child, signal.SIGKILL)
            while True:
                yield moving_texture(50)

        path = tmp_path / f"0{segment_suffix(settings)}"
        with pytest.raises(
            FFmpegError, match=r"^ffmpeg was killed by signal 9, by somebody or for want of memory:"
        ):
            encode_segment(frames(), path, first_frame=0, fps=8, settings=settings)
        assert names(tmp_path) == []

    def test_a_file_that_may_not_grow(self, tmp_path):
        program = tmp_path / "limited"
        program.write_text(f'#!/bin/sh\nulimit -f 8\nexec {find_ffmpeg()} "$@"\n')
        program.chmod(0o755)
        with pytest.raises(FFmpegError, match=r"was killed by signal 25|File too large"):
            encode_segment(
                [moving_texture(40)],
                tmp_path / "0.mkv",
                first_frame=0,
                fps=8,
                settings=EncodeSpec(format="ffv1", pix_fmt="bgr0"),
                program=str(program),
            )
        assert names(tmp_path) == ["limited"]
