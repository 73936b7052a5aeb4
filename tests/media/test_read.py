"""Reading finished videos: the frames that were written, and clear words where there are none."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glc_ray.config import EncodeSpec
from glc_ray.media.read import UnreadableError, opened
from glc_ray.protocols import UserError
from tests.media.clips import encode, moving_texture


def read(path: Path) -> np.ndarray:
    with opened(path) as video:
        return np.stack(list(video.frames))


def test_lossless_frames_come_back(tmp_path: Path):
    frames = moving_texture(5, bit_depth=16)
    encode([frames], tmp_path / "clip.mkv", settings=EncodeSpec(format="ffv1"))
    assert np.abs(read(tmp_path / "clip.mkv") - frames / 257).max() <= 1.5


def test_a_file_says_how_fast_it_is(tmp_path: Path):
    encode([moving_texture(9)], tmp_path / "clip.mp4", fps=12)
    with opened(tmp_path / "clip.mp4") as video:
        assert video.fps == 12
        assert sum(1 for _ in video.frames) == 9


def test_a_folder_of_pictures(tmp_path: Path):
    frames = moving_texture(3)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(tmp_path / f"frame_{number:06d}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    np.testing.assert_array_equal(read(tmp_path), frames)


def test_what_is_no_video_is_named(tmp_path: Path):
    (tmp_path / "clip.mp4").write_bytes(b"not a video")
    with pytest.raises(UnreadableError, match=r"clip\.mp4: cannot be read as a video: "):
        read(tmp_path / "clip.mp4")
    with pytest.raises(UnreadableError, match=r"none\.mp4: cannot be read"):
        read(tmp_path / "none.mp4")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnreadableError, match="has no pictures in it"):
        read(tmp_path / "empty")


def test_a_file_leads_to_no_other(tmp_path: Path):
    """A playlist, by whatever name, is not followed to where it points."""
    (tmp_path / "clip.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n")
    with pytest.raises(UnreadableError):
        read(tmp_path / "clip.mp4")


def test_without_pyav_it_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match=r"needs PyAV .*pip install 'glc-ray\[evaluate\]'"):
        read(tmp_path / "clip.mp4")
