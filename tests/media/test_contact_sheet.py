from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glc_ray.media.contact_sheet import ContactSheet, evenly_spaced


def grey(first: int, count: int, height: int = 64, width: int = 96) -> np.ndarray:
    """Frames whose level is their number."""
    levels = np.arange(first, first + count, dtype=np.uint8)[:, None, None, None]
    return np.broadcast_to(levels, (count, height, width, 3))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def fill(sheet: ContactSheet, num_frames: int, **size: int) -> ContactSheet:
    for first in range(0, num_frames, 8):
        sheet.add(grey(first, min(8, num_frames - first), **size))
    return sheet


@given(st.integers(1, 5000), st.integers(1, 40))
def test_picks_are_evenly_spaced(num_frames, picks):
    frames = evenly_spaced(num_frames, picks)
    assert len(frames) == len(set(frames)) == min(num_frames, picks)
    assert frames[0] == 0
    if picks > 1:
        assert frames[-1] == num_frames - 1
    gaps = np.diff(frames)
    assert gaps.size == 0 or gaps.max() - gaps.min() <= 1


def test_the_right_frames_in_the_right_places():
    sheet = fill(ContactSheet(145, title="a red ball", fps=8), 145)
    assert sheet.frames == [0, 13, 26, 39, 52, 65, 79, 92, 105, 118, 131, 144]
    image = np.asarray(sheet.image())
    # Cells of 3 x 96 pixels with gaps of 12, captions of 24 and a margin of 24 below.
    left = [24 + column * (288 + 12) + 144 for column in range(4)]
    bottom = image.shape[0] - 24 - 24 - 96
    top = [bottom - row * (192 + 24 + 12) for row in (2, 1, 0)]
    levels = [int(image[y, x, 0]) for y in top for x in left]
    assert levels == sheet.frames


def test_it_holds_the_picked_frames_only():
    sheet = fill(ContactSheet(145, title="", fps=8), 145)
    assert len(sheet._thumbnails.pictures) == 12


@pytest.mark.parametrize(
    ("size", "cell"), [((64, 96), 288), ((480, 720), 240), ((16, 1000), 250), ((8, 8), 256)]
)
def test_pictures_are_scaled_to_a_readable_size(size, cell):
    sheet = ContactSheet(4, title="", fps=8)
    sheet.add(grey(0, 4, *size))
    assert sheet.image().width == 4 * cell + 3 * 12 + 2 * 24


def test_short_videos_have_fewer_pictures():
    sheet = fill(ContactSheet(2, title="short", fps=8), 2)
    assert sheet.image().width == 2 * 288 + 12 + 2 * 24


@pytest.mark.parametrize(
    "title",
    ["", " \n\t", "word " * 500, "x" * 5000, "日本語のプロンプト" * 50, "🎈 \0 \udc80 ‮ Привет"],
)
def test_any_title_can_be_drawn(title, tmp_path):
    sheet = fill(ContactSheet(5, title=title, fps=8), 5)
    sheet.save(tmp_path / "sheet.png")
    assert names(tmp_path) == ["sheet.png"]
    with Image.open(tmp_path / "sheet.png") as image:
        image.load()
        assert image.height < 600  # at most three lines of title


def test_a_video_that_ended_early_is_an_error(tmp_path):
    sheet = fill(ContactSheet(145, title="", fps=8), 100)
    with pytest.raises(ValueError, match=r"has not seen frames \[105, 118, 131, 144\]"):
        sheet.save(tmp_path / "sheet.png")
    assert names(tmp_path) == []
