"""Videos beside each other in one picture, with labels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from glc_ray.media.drawing import BACKGROUND, CAPTION, TITLE, font, wrap

_TITLE_SIZE, _LABEL_SIZE = 22, 16
_TITLE_LINE, _LABEL_LINE = 30, 24
_MARGIN, _GAP = 16, 10
_CELL_WIDTH, _LARGEST_WIDTH = 256, 1920
_SHAPE = 16 / 9


class Mosaic:
    """Draws the frames of several videos into one, which is as wide as a screen at most."""

    def __init__(
        self,
        labels: Sequence[str],
        *,
        width: int,
        height: int,
        title: str,
        fps: float,
    ) -> None:
        """Divide the picture.

        Args:
            labels: of the videos, in order of reading.
            width, height: of each video in pixels.
            title: above all of them, for example the prompt.
            fps: frames per second, for the clock.
        """
        self._fps = fps
        self._columns, self._cell = _layout(len(labels), width, height)
        cell_width, cell_height = self._cell
        rows = -(-len(labels) // self._columns)
        inner = self._columns * (cell_width + _GAP) - _GAP
        lines = wrap(title, inner)
        self._clock = _MARGIN + len(lines) * _TITLE_LINE
        self._top = self._clock + _LABEL_LINE
        # Halved colour needs even sides.
        size = (
            _even(inner + 2 * _MARGIN),
            _even(self._top + rows * (cell_height + _LABEL_LINE + _GAP) - _GAP + _MARGIN),
        )
        self._empty = Image.new("RGB", size, BACKGROUND)
        draw = ImageDraw.Draw(self._empty)
        for number, line in enumerate(lines):
            place = (_MARGIN, _MARGIN + number * _TITLE_LINE)
            draw.text(place, line, fill=TITLE, font=font(_TITLE_SIZE, title))
        for index, label in enumerate(labels):
            x, y = self._place(index)
            text = shortened(label, cell_width, _LABEL_SIZE)
            draw.text((x, y - _LABEL_LINE + 3), text, fill=TITLE, font=font(_LABEL_SIZE, text))

    def draw(self, index: int, frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The picture (height, width, 3) of frame ``index`` of all videos, one frame each."""
        picture = self._empty.copy()
        for number, frame in enumerate(frames):
            kind = (
                Image.Resampling.BICUBIC
                if self._cell[0] >= frame.shape[1]
                else Image.Resampling.LANCZOS
            )
            picture.paste(Image.fromarray(frame).resize(self._cell, kind), self._place(number))
        clock = f"frame {index}  ·  {index / self._fps:.1f} s"
        draw = ImageDraw.Draw(picture)
        draw.text((_MARGIN, self._clock), clock, fill=CAPTION, font=font(_LABEL_SIZE))
        return np.asarray(picture)

    def _place(self, index: int) -> tuple[int, int]:
        row, column = divmod(index, self._columns)
        x = _MARGIN + column * (self._cell[0] + _GAP)
        return x, self._top + _LABEL_LINE + row * (self._cell[1] + _LABEL_LINE + _GAP)


def shortened(text: str, width: int, size: int) -> str:
    """As much of a text as fits into ``width`` pixels."""
    letters = font(size, text)
    if letters.getlength(text) <= width:
        return text
    while text and letters.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."


def _layout(count: int, width: int, height: int) -> tuple[int, tuple[int, int]]:
    """Columns, and width and height of a cell: about the shape of a screen.

    Small pictures grow by a whole factor, large ones shrink until a row fits.
    """
    columns = min(
        range(1, count + 1),
        key=lambda n: abs(np.log(n * width / (-(-count // n) * height) / _SHAPE)),
    )
    if width <= _CELL_WIDTH:
        factor = max(1, round(_CELL_WIDTH / width))
        factor = max(1, min(factor, _LARGEST_WIDTH // (columns * width)))
        return columns, (width * factor, height * factor)
    share = min(1.0, _LARGEST_WIDTH / (columns * width))
    return columns, (max(1, round(width * share)), max(1, round(height * share)))


def _even(length: int) -> int:
    return length + length % 2
