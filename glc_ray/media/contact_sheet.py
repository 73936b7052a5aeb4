"""A picture of a whole video: evenly spaced frames in a grid under the prompt."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from glc_ray.media.decode import Frames
from glc_ray.media.whole_file import whole_file

_BACKGROUND, _TITLE, _CAPTION = "#ffffff", "#1a1a1a", "#6b6b6b"
_MARGIN, _GAP, _CAPTION_HEIGHT, _TITLE_LINE = 24, 12, 24, 30
_CELL_WIDTH = 256
_TITLE_LINES = 3
_TITLE_CHARACTERS = 1000  # more than these lines hold

# Pillow's own font knows Latin letters only. The first of these that is installed draws the rest.
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msgothic.ttc", "DejaVuSans.ttf")


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
        self.frames = evenly_spaced(num_frames, picks)
        self._title, self._fps, self._columns = title, fps, min(columns, len(self.frames))
        self._pictures: dict[int, Image.Image] = {}
        self._seen = 0

    def add(self, frames: Frames) -> None:
        """Let the next frames (frames, height, width, 3) of the video pass by."""
        for offset, frame in enumerate(frames):
            if self._seen + offset in self.frames:
                self._pictures[self._seen + offset] = _resize(Image.fromarray(frame))
        self._seen += len(frames)

    def image(self) -> Image.Image:
        """Draw the sheet.

        Raises:
            ValueError: the video has not passed by as far as its last frame.
        """
        if len(self._pictures) < len(self.frames):
            raise ValueError(f"a contact sheet of frame {self.frames[-1]} has seen {self._seen}")
        width, height = self._pictures[0].size
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
            sheet.paste(self._pictures[frame], (x, y))
            draw.text((x, y + height + 5), self._caption(frame), fill=_CAPTION, font=_font(14))
        return sheet

    def save(self, path: Path) -> None:
        """Write a PNG, whole or not at all; raises as ``image``."""
        image = self.image()
        with whole_file(path) as partial:
            image.save(partial, format="PNG", optimize=True)

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
    if all(ord(character) < 0x250 for character in text):
        return ImageFont.load_default(size)
    for name in _WIDE_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)
