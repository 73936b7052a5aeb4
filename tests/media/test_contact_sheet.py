from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from glc_ray.media.contact_sheet import ContactSheet, Thumbnails, evenly_spaced


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


def test_a_sheet_of_segments_is_the_sheet_of_the_whole():
    frames = np.random.default_rng(0).integers(0, 256, (145, 64, 96, 3), np.uint8)
    whole, merged = (ContactSheet(145, title="a red ball", fps=8) for _ in range(2))
    whole.add(frames)
    for start, stop in [(96, 145), (0, 48), (48, 96)]:
        thumbnails = Thumbnails(145, first_frame=start)
        assert list(thumbnails.watch([frames[start : start + 7], frames[start + 7 : stop]]))
        pictures = thumbnails.to_png()
        assert all(start <= frame < stop for frame in pictures)
        merged.merge(pictures)
    np.testing.assert_array_equal(np.asarray(merged.image()), np.asarray(whole.image()))


def test_a_segment_that_is_missing():
    sheet = ContactSheet(145, title="", fps=8)
    thumbnails = Thumbnails(145)
    thumbnails.add(grey(0, 40))
    sheet.merge(thumbnails.to_png())
    with pytest.raises(ValueError, match=r"has not seen frames \[52, 65, .*144\]"):
        sheet.image()


def test_frames_of_16_bits_look_as_those_of_8():
    frames = np.random.default_rng(0).integers(0, 256, (3, 64, 96, 3), np.uint8)
    sheets = [ContactSheet(3, title="", fps=8) for _ in range(2)]
    sheets[0].add(frames)
    # Half a level off is nearest to it still.
    sheets[1].add((frames.astype(np.uint32) * 257 + 128).clip(0, 65535).astype(np.uint16))
    np.testing.assert_array_equal(np.asarray(sheets[0].image()), np.asarray(sheets[1].image()))
