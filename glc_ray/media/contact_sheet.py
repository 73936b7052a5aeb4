"""A picture of a whole video: evenly spaced frames in a grid under the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from glc_ray.media.whole_file import whole_file

# Late: it imports torch, and the report page needs none.
if TYPE_CHECKING:
    from glc_ray.media.decode import Frames

_BACKGROUND, _TITLE, _CAPTION = "#ffffff", "#1a1a1a", "#6b6b6b"
_MARGIN, _GAP, _CAPTION_HEIGHT, _TITLE_LINE = 24, 12, 24, 30
_CELL_WIDTH = 256
_TITLE_LINES = 3
_PREVIEW = 3, 2
_TITLE_CHARACTERS = 1000  # more than these lines hold

# Pillow's own font knows ASCII only. The first of these that is installed draws the rest.
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msgothic.ttc", "DejaVuSans.ttf")


class Thumbnails:
    """The pictures of a contact sheet that lie in one stretch of the video."""

    def __init__(self, num_frames: int, *, picks: int = 12, first_frame: int = 0) -> None:
        """Choose the frames.

        Args:
            num_frames: length of the whole video.
            picks: pictures on the sheet; the first and the last frame are among them.
            first_frame: of the whole video, where the stretch begins.
        """
        self.frames = evenly_spaced(num_frames, picks)
        self.pictures: dict[int, Image.Image] = {}
        self.seen = first_frame

    def add(self, frames: Frames) -> None:
        """Let the next frames (frames, height, width, 3) of the stretch pass by."""
        for offset, frame in enumerate(frames):
            if self.seen + offset in self.frames:
                self.pictures[self.seen + offset] = _resize(Image.fromarray(eight_bits(frame)))
        self.seen += len(frames)

    def watch(self, batches: Iterable[Frames]) -> Iterator[Frames]:
        """Hand on frames as they come, and let them pass by."""
        for frames in batches:
            self.add(frames)
            yield frames

    def to_png(self) -> dict[int, bytes]:
        """The pictures by frame, to be kept or sent; nothing is lost."""
        return {frame: _png(picture) for frame, picture in self.pictures.items()}


class ContactSheet:
    """Collects its frames while the video passes by; never holds more than those."""

    def __init__(
        self,
        num_frames: int,
        *,
        title: str,
        fps: float | Fraction,
        picks: int = 12,
        columns: int = 4,
    ) -> None:
        """Choose the frames.

        Args:
            num_frames: length of the video.
            title: written above the frames, for example the prompt; any characters.
            fps: frames per second, for the captions.
            picks: pictures on the sheet; the first and the last frame are among them.
            columns: pictures side by side.
        """
        self._thumbnails = Thumbnails(num_frames, picks=picks)
        self.frames = self._thumbnails.frames
        self._title, self._fps, self._columns = title, fps, min(columns, len(self.frames))

    def add(self, frames: Frames) -> None:
        """Let the next frames (frames, height, width, 3) of the video pass by."""
        self._thumbnails.add(frames)

    def merge(self, pictures: Mapping[int, bytes]) -> None:
        """Take what ``Thumbnails.to_png`` gave for a stretch; in any order of stretches."""
        for frame, png in pictures.items():
            with Image.open(BytesIO(png), formats=["PNG"]) as picture:
                self._thumbnails.pictures[frame] = picture.convert("RGB")

    def image(self) -> Image.Image:
        """Draw the sheet.

        Raises:
            ValueError: not all of its frames have passed by.
        """
        pictures = self._pictures()
        width, height = pictures[0].size
        rows = -(-len(self.frames) // self._columns)
        inner_width = self._columns * (width + _GAP) - _GAP
        title = _wrap(self._title, inner_width)
        top = _MARGIN + len(title) * _TITLE_LINE + (_GAP if title else 0)
        sheet_height = top + rows * (height + _CAPTION_HEIGHT + _GAP) - _GAP + _MARGIN
        sheet = Image.new("RGB", (inner_width + 2 * _MARGIN, sheet_height), _BACKGROUND)
        draw = ImageDraw.Draw(sheet)
        for number, line in enumerate(title):
            position = (_MARGIN, _MARGIN + number * _TITLE_LINE)
            draw.text(position, line, fill=_TITLE, font=_font(22, self._title))
        for number, frame in enumerate(self.frames):
            row, column = divmod(number, self._columns)
            x = _MARGIN + column * (width + _GAP)
            y = top + row * (height + _CAPTION_HEIGHT + _GAP)
            sheet.paste(pictures[frame], (x, y))
            draw.text((x, y + height + 5), self._caption(frame), fill=_CAPTION, font=_font(14))
        return sheet

    def save(self, path: Path) -> None:
        """Write a PNG, whole or not at all; raises as ``image``."""
        image = self.image()
        with whole_file(path) as partial:
            image.save(partial, format="PNG", optimize=True)

    def preview(self) -> bytes:
        """Six of its pictures, three by two without text, as JPEG; fewer of a shorter video.

        Raises:
            ValueError: not all of its frames have passed by.
        """
        pictures = self._pictures()
        chosen = [
            pictures[self.frames[at]]
            for at in evenly_spaced(len(self.frames), _PREVIEW[0] * _PREVIEW[1])
        ]
        columns = min(_PREVIEW[0], len(chosen))
        width, height = chosen[0].size
        size = (columns * width, -(-len(chosen) // columns) * height)
        image = Image.new("RGB", size, _BACKGROUND)
        for number, picture in enumerate(chosen):
            row, column = divmod(number, columns)
            image.paste(picture, (column * width, row * height))
        buffer = BytesIO()
        image.save(buffer, format="JPEG", quality=85, optimize=True)
        return buffer.getvalue()

    def _pictures(self) -> dict[int, Image.Image]:
        pictures = self._thumbnails.pictures
        missing = [frame for frame in self.frames if frame not in pictures]
        if missing:
            raise ValueError(f"a contact sheet has not seen frames {missing}")
        return pictures

    def _caption(self, frame: int) -> str:
        return f"frame {frame}  ·  {float(frame / self._fps):.1f} s"


def evenly_spaced(num_frames: int, picks: int) -> list[int]:
    """``picks`` different frames from the first to the last; all of a shorter video."""
    if num_frames <= picks:
        return list(range(num_frames))
    return [round(pick * (num_frames - 1) / max(picks - 1, 1)) for pick in range(picks)]


def _resize(frame: Image.Image) -> Image.Image:
    """About ``_CELL_WIDTH`` wide, by a whole factor: a small picture stays sharp and regular."""
    if frame.width <= _CELL_WIDTH:
        factor = max(1, round(_CELL_WIDTH / frame.width))
        size = (frame.width * factor, frame.height * factor)
        return frame.resize(size, Image.Resampling.BICUBIC)
    divisor = round(frame.width / _CELL_WIDTH)
    size = (frame.width // divisor, frame.height // divisor)
    return frame.resize(size, Image.Resampling.LANCZOS)


def eight_bits(frame: NDArray[Any]) -> NDArray[np.uint8]:
    """Of 16 bits the nearest of 8: 65,535 = 255 * 257."""
    return frame if frame.dtype == np.uint8 else ((frame + np.uint32(128)) // 257).astype(np.uint8)


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _wrap(text: str, width: int) -> list[str]:
    """Lines no wider than ``width`` pixels, broken at spaces and, where a word is too long (or the
    script has no spaces), inside of words."""
    font, lines = _font(22, text), [""]
    for word in _printable(text[:_TITLE_CHARACTERS]).split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for character in word:
            if lines[-1] and font.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    lines = [line for line in lines if line]
    if len(lines) > _TITLE_LINES:
        lines = [*lines[: _TITLE_LINES - 1], lines[_TITLE_LINES - 1] + " …"]
    return lines


def _printable(text: str) -> str:
    """Control characters and lone surrogates, which fonts cannot draw, become spaces."""
    return "".join(c if c.isprintable() else " " for c in text)


def _font(size: int, text: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    if text.isascii():
        return ImageFont.load_default(size)
    for name in _WIDE_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
