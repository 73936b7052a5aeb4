from __future__ import annotations

from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from glc_ray.media.preview_sheet import PreviewHead, PreviewLabel, labels_of, with_row

HEAD = PreviewHead(video="a" * 64, title="a red ball", frames=(0, 69, 144), fps=8.0)


def grey(level: int) -> Image.Image:
    return Image.new("RGB", (96, 64), (level, level, level))


def row(stored: bytes | None, step: int, *levels: int, head: PreviewHead = HEAD) -> bytes:
    label = PreviewLabel(step, 25, 1000.0 - 40 * step)
    return with_row(stored, head, label, [grey(level) for level in levels])


def pixels(sheet: bytes) -> np.ndarray:
    with Image.open(BytesIO(sheet)) as image:
        return np.asarray(image.convert("RGB"))


def levels(sheet: bytes) -> list[list[int]]:
    """In the middle of each picture, row by row: cells of 288 x 192, rows of 228 pixels."""
    image = pixels(sheet)
    num_rows = len(labels_of(sheet))
    # Below the last row: its caption and the margin.
    last = image.shape[0] - 24 - 24 - 96
    tops = [last - 228 * (num_rows - 1 - number) for number in range(num_rows)]
    return [[int(image[y, 24 + 300 * x + 144, 0]) for x in range(3)] for y in tops]


def steps(sheet: bytes) -> list[int]:
    return [label.step for label in labels_of(sheet)]


def test_it_grows_a_row_a_preview() -> None:
    first = row(None, 5, 10, 20, 30)
    second = row(first, 10, 40, 50, 60)
    assert levels(first) == [[10, 20, 30]]
    assert levels(second) == [[10, 20, 30], [40, 50, 60]]
    assert [str(label) for label in labels_of(second)] == [
        "step 5 of 25  ·  timestep 800",
        "step 10 of 25  ·  timestep 600",
    ]
    # Head, first row and its words are as they were.
    kept = len(pixels(first)) - 24
    np.testing.assert_array_equal(pixels(second)[:kept], pixels(first)[:kept])


def test_rows_behind_where_denoising_goes_on_give_way() -> None:
    sheet = None
    for step in (5, 10, 15):
        sheet = row(sheet, step, step, step, step)
    again = row(sheet, 10, 99, 99, 99)
    assert levels(again) == [[5, 5, 5], [99, 99, 99]]
    assert again == row(row(None, 5, 5, 5, 5), 10, 99, 99, 99)


@pytest.mark.parametrize(
    "stored",
    [
        b"",
        b"no picture",
        row(None, 5, 1, 2, 3)[:300],
        row(None, 5, 1, 2, 3, head=replace(HEAD, video="b" * 64)),
        row(None, 5, 1, 2, 3, head=replace(HEAD, frames=(0, 9, 144))),
        row(None, 5, 1, 2, 3, head=replace(HEAD, title="a blue box")),
    ],
    ids=["empty", "text", "torn", "other video", "other frames", "other title"],
)
def test_what_is_no_sheet_of_this_video_is_replaced(stored: bytes) -> None:
    assert row(stored, 10, 40, 50, 60) == row(None, 10, 40, 50, 60)


def test_a_picture_without_rows_is_none() -> None:
    buffer = BytesIO()
    grey(3).save(buffer, format="PNG")
    assert labels_of(buffer.getvalue()) == []
    assert row(buffer.getvalue(), 10, 4, 5, 6) == row(None, 10, 4, 5, 6)
