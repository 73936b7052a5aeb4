"""The preview sheet: noise to picture, a row a preview, which grows while a video is denoised.

The stored file is its only memory: whoever adds a row, perhaps after a crash, reads it, cuts it
behind the last row that is earlier, and appends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO

from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from glc_ray.media.drawing import (
    BACKGROUND,
    CAPTION,
    CAPTION_HEIGHT,
    CAPTION_SIZE,
    GAP,
    MARGIN,
    TITLE,
    TITLE_LINE,
    TITLE_SIZE,
    font,
    thumbnail,
    wrap,
)

_FACTS = "glc-ray preview"
"""Key of the text in the file that says what it shows."""


@dataclass(frozen=True)
class PreviewHead:
    """What all rows of a sheet have in common."""

    video: str
    """What is denoised: a hash. Rows of anything else are not gone on with."""
    title: str
    """Written above the pictures, for example the prompt; any characters."""
    frames: tuple[int, ...]
    """Pixel frames that the columns show."""
    fps: float


@dataclass(frozen=True)
class PreviewLabel:
    """Where in denoising a row was taken."""

    step: int
    """Steps that are done."""
    num_steps: int
    timestep: float
    """Of the step, the scheduler's."""

    def __str__(self) -> str:
        return f"step {self.step} of {self.num_steps}  ·  timestep {self.timestep:g}"


def with_row(
    stored: bytes | None,
    head: PreviewHead,
    label: PreviewLabel,
    pictures: Sequence[Image.Image],
) -> bytes:
    """A sheet with one more row, as PNG.

    Args:
        stored: the sheet so far; None, or anything that is no sheet of the same video in the same
            columns, begins a new one. Its rows from ``label.step`` on, of an earlier attempt, go.
        head: of the sheet.
        label: of the row.
        pictures: one a column, all of one size.
    """
    cells = [thumbnail(picture) for picture in pictures]
    width, height = cells[0].size
    inner_width = len(cells) * (width + GAP) - GAP
    title = wrap(head.title, inner_width)
    top = MARGIN + len(title) * TITLE_LINE + CAPTION_HEIGHT
    row_height = height + CAPTION_HEIGHT + GAP
    size = (inner_width + 2 * MARGIN, top + row_height + MARGIN)
    before, labels = _before(stored, head, label, (size[0], top, row_height))
    kept = top + len(labels) * row_height
    sheet = Image.new("RGB", (size[0], kept + row_height - GAP + MARGIN), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if before is None:
        _draw_head(draw, head, title, width)
    else:
        sheet.paste(before.crop((0, 0, size[0], kept)))
    for column, cell in enumerate(cells):
        sheet.paste(cell, (MARGIN + column * (width + GAP), kept))
    words = str(label)
    draw.text((MARGIN, kept + height + 5), words, fill=CAPTION, font=font(CAPTION_SIZE, words))
    return _png(sheet, head, [*labels, label])


def labels_of(stored: bytes) -> list[PreviewLabel]:
    """The rows of a stored sheet; none of what is no sheet."""
    try:
        with Image.open(BytesIO(stored), formats=["PNG"]) as sheet:
            return [PreviewLabel(**label) for label in json.loads(sheet.info[_FACTS])["rows"]]
    except (OSError, ValueError, TypeError, KeyError, SyntaxError):
        return []


def _draw_head(draw: ImageDraw.ImageDraw, head: PreviewHead, title: list[str], width: int) -> None:
    for number, line in enumerate(title):
        position = (MARGIN, MARGIN + number * TITLE_LINE)
        draw.text(position, line, fill=TITLE, font=font(TITLE_SIZE, head.title))
    for column, frame in enumerate(head.frames):
        position = (MARGIN + column * (width + GAP), MARGIN + len(title) * TITLE_LINE)
        words = f"frame {frame}  ·  {frame / head.fps:.1f} s"
        draw.text(position, words, fill=CAPTION, font=font(CAPTION_SIZE, words))


def _before(
    stored: bytes | None, head: PreviewHead, label: PreviewLabel, shape: tuple[int, int, int]
) -> tuple[Image.Image | None, list[PreviewLabel]]:
    """What is gone on with: the picture, and the labels of its rows that stay.

    ``shape`` is what this sheet's must be: width, where rows begin, and a row's height, in pixels.
    """
    width, top, row_height = shape
    if stored is None:
        return None, []
    try:
        with Image.open(BytesIO(stored), formats=["PNG"]) as sheet:
            facts = json.loads(sheet.info[_FACTS])
            labels = [PreviewLabel(**one) for one in facts["rows"]]
            height = top + len(labels) * row_height - GAP + MARGIN
            if facts["head"] != _plain(head) or sheet.size != (width, height):
                return None, []
            picture = sheet.convert("RGB")
    except (OSError, ValueError, TypeError, KeyError, SyntaxError, Image.DecompressionBombError):
        return None, []
    return picture, [one for one in labels if one.step < label.step]


def _png(sheet: Image.Image, head: PreviewHead, labels: list[PreviewLabel]) -> bytes:
    facts = PngInfo()
    rows = [asdict(one) for one in labels]
    facts.add_text(_FACTS, json.dumps({"head": _plain(head), "rows": rows}))
    buffer = BytesIO()
    sheet.save(buffer, format="PNG", pnginfo=facts)
    return buffer.getvalue()


def _plain(head: PreviewHead) -> dict[str, object]:
    return {**asdict(head), "frames": list(head.frames)}
