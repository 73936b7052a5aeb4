"""Real ffmpeg writes, PyAV reads."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import threading
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from glc_ray.config import EncodeSpec
from glc_ray.media.encode import VideoWriter
from glc_ray.media.ffmpeg import FFmpegError, find_ffmpeg
from glc_ray.media.formats import choose
from glc_ray.media.segments import SegmentReport, encode_segment
from glc_ray.protocols import UserError
from tests.media.clips import encode, names

FAST = EncodeSpec(preset="ultrafast")
NASTY = 'it\'s "a"; b=c:d,\\e\n#-y %s $(id) `id` 日本 🎈'


def make_batches(sizes=(9, 8, 8), height=32, width=48):
    """Smooth moving colours in batches of ``sizes`` frames."""
    y, x = np.mgrid[0:height, 0:width]
    start = 0
    for size in sizes:
        shifts = range(start, start + size)
        frames = [np.stack([x * 3 + 4 * t, y * 6, 200 - x - y + 2 * t], -1) for t in shifts]
        yield np.stack(frames).clip(0, 255).astype(np.uint8)
        start += size


def read_video(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def read_tags(path: Path) -> dict[str, str]:
    with av.open(str(path)) as container:
        return dict(container.metadata)


def segment(batches, path: Path, settings: EncodeSpec | None = None, **options) -> SegmentReport:
    settings = settings or EncodeSpec()
    return encode_segment(batches, path, first_frame=0, fps=8, settings=settings, **options)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2))


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    encode(make_batches(), path)
    return path


def test_report(tmp_path):
    report = segment(make_batches(), tmp_path / "video.mp4")
    assert (report.num_frames, report.width, report.height) == (25, 48, 32)
    assert report.decode_s > 0
    assert report.encode_s > 0


def test_seconds_of_waiting_for_frames_count_as_decode(tmp_path):
    def slow():
        for frames in make_batches((2, 2)):
            threading.Event().wait(0.2)
            yield frames

    report = segment(slow(), tmp_path / "video.mp4", FAST)
    assert report.decode_s >= 0.4


def test_stream(video):
    with av.open(str(video)) as container:
        (stream,) = container.streams
        codec = stream.codec_context
        assert (codec.name, codec.pix_fmt) == ("h264", "yuv420p")
        assert (codec.width, codec.height) == (48, 32)
        assert stream.average_rate == 8
        assert stream.frames == 25
        assert stream.duration * stream.time_base == Fraction(25, 8)
    assert len(read_video(video)) == 25


def test_colours_are_converted_and_tagged_bt709(video):
    with av.open(str(video)) as container:
        codec = container.streams.video[0].codec_context
        bt709, limited = 1, 1
        assert (codec.color_primaries, codec.color_trc, codec.colorspace) == (bt709,) * 3
        assert codec.color_range == limited


def test_luma_is_that_of_bt709(tmp_path):
    red = np.zeros((1, 16, 16, 3), np.uint8)
    red[..., 0] = 255
    encode([red], tmp_path / "red.mp4", settings=EncodeSpec(crf=0))
    with av.open(str(tmp_path / "red.mp4")) as container:
        luma = next(container.decode(video=0)).to_ndarray()[:16]
    # 16 + 219 * 0.2126 by BT.709; 81 would be BT.601.
    assert np.abs(luma.astype(int) - 63).max() <= 1


def test_pixels_are_near_the_source(video):
    source = np.concatenate(list(make_batches()))
    decoded = read_video(video)
    assert psnr(decoded, source) > 38
    # Frames in order, none doubled: each is nearest to its own source.
    errors = ((decoded[:, None].astype(float) - source[None]) ** 2).mean((2, 3, 4))
    assert (errors.argmin(1) == np.arange(25)).all()


def test_header_comes_before_the_data(video):
    data = video.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(("fps", "rate"), [(29.97, Fraction(2997, 100)), (8.0, 8), (0.5, 0.5)])
def test_fractional_rates(tmp_path, fps, rate):
    encode(make_batches((5,)), tmp_path / "video.mp4", fps=fps, settings=FAST)
    with av.open(str(tmp_path / "video.mp4")) as container:
        assert container.streams.video[0].average_rate == rate
        assert container.streams.video[0].frames == 5


def test_one_frame(tmp_path):
    encode(make_batches((1,)), tmp_path / "video.mp4", settings=FAST)
    assert len(read_video(tmp_path / "video.mp4")) == 1


def test_same_frames_give_the_same_bytes(tmp_path, video):
    # In other batches too: ffmpeg sees one stream of pixels.
    encode(make_batches((3, 22)), tmp_path / "again.mp4")
    assert (tmp_path / "again.mp4").read_bytes() == video.read_bytes()


def test_quality_and_effort_reach_the_encoder(tmp_path, video):
    settings = EncodeSpec(crf=40, preset="veryfast")
    encode(make_batches(), tmp_path / "small.mp4", settings=settings)
    assert (tmp_path / "small.mp4").stat().st_size < video.stat().st_size


def test_frames_of_any_memory_layout(tmp_path):
    batches = [np.asfortranarray(frames) for frames in make_batches((4,))]
    encode(batches, tmp_path / "video.mp4")
    assert psnr(read_video(tmp_path / "video.mp4"), batches[0]) > 38


def test_metadata_with_any_characters(tmp_path):
    path = tmp_path / "video.mp4"
    tags = {"title": NASTY, "comment": "-i /etc/passwd"}
    encode(make_batches((1,)), path, settings=FAST, metadata=tags)
    read = read_tags(path)
    assert (read["title"], read["comment"]) == (NASTY, "-i /etc/passwd")


def test_metadata_keys_that_mp4_does_not_know(tmp_path):
    path = tmp_path / "video.mp4"
    tags = {"title": NASTY, "seed": "7", "specification_hash": "ab" * 32}
    encode(make_batches((1,)), path, settings=FAST, metadata=tags)
    assert tags.items() <= read_tags(path).items()


def test_metadata_that_no_argument_can_hold(tmp_path):
    path = tmp_path / "video.mp4"
    tags = {"title": "nul \0 and \udc80 surrogate", "comment": ""}
    encode(make_batches((1,)), path, settings=FAST, metadata=tags)
    assert read_tags(path)["title"] == "nul � and ? surrogate"


def test_metadata_keys_are_checked(tmp_path):
    with pytest.raises(ValueError, match="metadata key 'a=b': use ASCII letters"):
        encode(make_batches(), tmp_path / "video.mp4", metadata={"a=b": "c"})


@pytest.mark.parametrize("name", ["-y.mp4", "a:b.mp4", "50%d 'x'.mp4", "日本.mp4"])
def test_file_names(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    encode(make_batches((1,)), Path(name), settings=FAST)
    assert names(tmp_path) == [name]


def test_an_older_file_is_replaced_and_readable_by_others(tmp_path):
    path = tmp_path / "video.mp4"
    path.write_text("old")
    encode(make_batches((1,)), path, settings=FAST)
    assert len(read_video(path)) == 1
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


class TestFailures:
    def test_odd_sizes(self, tmp_path):
        with pytest.raises(UserError) as error:
            segment(make_batches((1,), height=31, width=47), tmp_path / "v.mp4")
        assert str(error.value) == (
            "the picture is 47 x 31 pixels, but yuv420p halves the colour and needs even sides; "
            "use 46 x 30 or 48 x 32, or encode.pix_fmt = 'yuv444p', which takes any size"
        )
        assert names(tmp_path) == []

    def test_no_frames(self, tmp_path):
        with pytest.raises(ValueError, match="no frames"):
            segment([], tmp_path / "video.mp4")

    @pytest.mark.parametrize(
        "bad", [np.zeros((1, 16, 48, 3), np.uint8), np.zeros((1, 32, 48, 3), np.float32)]
    )
    def test_frames_that_do_not_fit(self, tmp_path, bad):
        with pytest.raises(ValueError, match="expected uint8 frames"):
            segment([*make_batches((1,)), bad], tmp_path / "video.mp4")
        assert names(tmp_path) == []

    def test_a_source_that_raises_leaves_nothing_and_keeps_the_old_file(self, tmp_path):
        path = tmp_path / "video.mp4"
        path.write_text("old")

        def failing():
            yield from make_batches((9, 8))
            assert len(names(tmp_path)) <= 2
            raise ArithmeticError("frame 17")

        with pytest.raises(ArithmeticError, match="frame 17"):
            segment(failing(), path)
        assert names(tmp_path) == ["video.mp4"]
        assert path.read_text() == "old"

    def test_an_error_of_ffmpeg_ends_with_its_words(self, tmp_path):
        # There is no such card here, or it is not free.
        settings = EncodeSpec(encoder="h264_nvenc")
        with pytest.raises(FFmpegError, match=r"(?s)failed with exit code \d+:.*h264_nvenc"):
            segment(make_batches((400,)), tmp_path / "video.mp4", settings)
        assert names(tmp_path) == []

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(FFmpegError, match="No such file or directory"):
            segment(make_batches(), tmp_path / "nowhere" / "video.mp4")

    def test_ffmpeg_is_killed_in_the_middle(self, tmp_path):
        def write_and_kill():
            encoding = choose(EncodeSpec())
            path = tmp_path / "video.mp4"
            with VideoWriter(
                path, width=48, height=32, fps=8, encoding=encoding, muxer="mp4"
            ) as writer:
                writer.write(next(make_batches((1,))))
                os.kill(writer._process._process.pid, signal.SIGKILL)
                for frames in make_batches((200,) * 5):
                    writer.write(frames)

        with pytest.raises(FFmpegError, match="was killed by signal 9"):
            write_and_kill()

    def test_a_full_disk(self):
        with (
            pytest.raises(FFmpegError) as error,
            VideoWriter(
                Path("/dev/full"),
                width=48,
                height=32,
                fps=8,
                encoding=choose(EncodeSpec()),
                muxer="mp4",
            ) as writer,
        ):
            writer.write(next(make_batches((20,))))
        first, *rest = str(error.value).splitlines()
        assert re.fullmatch(
            r"ffmpeg failed with exit code \d+, because the disk that it writes to is full; make "
            r"room there, or name another folder by TMPDIR:",
            first,
        )
        assert "No space left on device" in "\n".join(rest)

    @pytest.mark.parametrize("name", ["h264", "png", "gif"])
    def test_a_full_file_system(self, tmp_path, name):
        disk = tmp_path / "disk"
        disk.mkdir()
        mounting = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
        if subprocess.run(mounting, capture_output=True).returncode != 0:
            pytest.skip("no file system may be mounted here")
        try:
            noise = np.random.default_rng(0).integers(0, 256, (60, 32, 48, 3), np.uint8)
            settings = EncodeSpec(format=name)
            with pytest.raises(FFmpegError, match="because the disk that it writes to is full"):
                segment([noise] * 10, disk / "video", settings)
            assert names(disk) == []
        finally:
            subprocess.run(["umount", str(disk)], check=True)

    def test_a_talkative_ffmpeg_does_not_block(self, tmp_path):
        # Far more than a pipe holds, before it reads its input.
        program = tmp_path / "talkative"
        program.write_text(
            "#!/bin/sh\ncase $2 in -encoders) echo V....D libx264; exit;; esac\n"
            "i=0\nwhile [ $i -lt 5000 ]; do echo 'a warning of fifty letters' >&2; "
            "i=$((i+1)); done\ncat >/dev/null\necho the last words >&2\nexit 3\n"
        )
        program.chmod(0o755)
        with pytest.raises(FFmpegError, match="failed with exit code 3") as error:
            segment(make_batches(), tmp_path / "v.mp4", program=str(program))
        lines = str(error.value).splitlines()
        assert len(lines) == 21
        assert lines[-1] == "the last words"


class TestFind:
    @pytest.fixture(autouse=True)
    def _no_variable(self, monkeypatch):
        monkeypatch.delenv("GLC_RAY_FFMPEG", raising=False)

    def test_the_installed_package_is_the_default(self):
        assert Path(find_ffmpeg()).is_file()

    def test_one_that_the_user_names(self, monkeypatch):
        monkeypatch.setenv("GLC_RAY_FFMPEG", "/bin/true")
        assert find_ffmpeg() == "/bin/true"
        assert find_ffmpeg("/bin/false") == "/bin/false"

    def test_a_named_one_that_is_not_there(self, monkeypatch):
        monkeypatch.setenv("GLC_RAY_FFMPEG", "/opt/ffmpeg")
        with pytest.raises(UserError) as error:
            find_ffmpeg()
        assert str(error.value) == (
            "GLC_RAY_FFMPEG = '/opt/ffmpeg': no such program, or it may not be executed; give the "
            "path of an ffmpeg, or unset GLC_RAY_FFMPEG to use the one that is installed with "
            "glc-ray"
        )

    def test_none_at_all(self, monkeypatch, tmp_path):
        def missing():
            raise RuntimeError("No ffmpeg exe could be found.")

        monkeypatch.setattr("imageio_ffmpeg.get_ffmpeg_exe", missing)

        def never():
            raise AssertionError("decoded although there is no ffmpeg")
            yield

        with pytest.raises(UserError) as error:
            segment(never(), tmp_path / "video.mp4")
        assert str(error.value) == (
            "no ffmpeg: the package imageio-ffmpeg carries none for this platform and there is "
            "none on PATH; install ffmpeg (apt install ffmpeg, conda install ffmpeg) or name one "
            "by GLC_RAY_FFMPEG=/path/to/ffmpeg"
        )
