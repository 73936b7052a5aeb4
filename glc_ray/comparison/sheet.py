"""A still comparison, as papers print it: a row a method, a column an instant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from glc_ray.comparison.mosaic import shortened
from glc_ray.media.contact_sheet import evenly_spaced
from glc_ray.media.drawing import (
    BACKGROUND,
    CAPTION,
    CAPTION_HEIGHT,
    CAPTION_SIZE,
    MARGIN,
    TITLE,
    TITLE_LINE,
    TITLE_SIZE,
    font,
    thumbnail,
    wrap,
)

_LABEL_SIZE, _LABEL_WIDTH = 18, 220
_GAP = 4


class Strips:
    """Collects equally spaced frames of several videos while these pass by."""

    def __init__(
        self, labels: Sequence[str], num_frames: int, *, title: str, fps: float, picks: int = 6
    ) -> None:
        """Choose the frames.

        Args:
            labels: of the videos, one a row.
            num_frames: of each video.
            title: above all of them, for example the prompt.
            fps: frames per second, for the captions.
            picks: columns; the first and the last frame are among them.
        """
        self.frames = evenly_spaced(num_frames, picks)
        self._labels, self._title, self._fps = labels, title, fps
        self._columns: dict[int, list[Image.Image]] = {}

    def add(self, index: int, frames: Sequence[NDArray[np.uint8]]) -> None:
        """Let frame ``index`` of all videos pass by, each (height, width, 3)."""
        if index in self.frames:
            self._columns[index] = [thumbnail(Image.fromarray(frame)) for frame in frames]

    def image(self) -> Image.Image:
        """Draw the sheet.

        Raises:
            ValueError: not all of its frames have passed by.
        """
        missing = [frame for frame in self.frames if frame not in self._columns]
        if missing:
            raise ValueError(f"a strip has not seen frames {missing}")
        width, height = self._columns[self.frames[0]][0].size
        inner = _LABEL_WIDTH + len(self.frames) * (width + _GAP) - _GAP
        lines = wrap(self._title, inner)
        top = MARGIN + len(lines) * TITLE_LINE + CAPTION_HEIGHT
        size = (inner + 2 * MARGIN, top + len(self._labels) * (height + _GAP) - _GAP + MARGIN)
        sheet = Image.new("RGB", size, BACKGROUND)
        draw = ImageDraw.Draw(sheet)
        for number, line in enumerate(lines):
            place = (MARGIN, MARGIN + number * TITLE_LINE)
            draw.text(place, line, fill=TITLE, font=font(TITLE_SIZE, self._title))
        for row, label in enumerate(self._labels):
            text = shortened(label, _LABEL_WIDTH - 2 * _GAP, _LABEL_SIZE)
            y = top + row * (height + _GAP) + height // 2
            draw.text((MARGIN, y), text, fill=TITLE, font=font(_LABEL_SIZE, text), anchor="lm")
        for column, frame in enumerate(self.frames):
            x = MARGIN + _LABEL_WIDTH + column * (width + _GAP)
            words = f"frame {frame}  ·  {frame / self._fps:.1f} s"
            draw.text((x, top - CAPTION_HEIGHT + 4), words, fill=CAPTION, font=font(CAPTION_SIZE))
            for row, picture in enumerate(self._columns[frame]):
                sheet.paste(picture, (x, top + row * (height + _GAP)))
        return sheet
