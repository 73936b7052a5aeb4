"""What the sheets of pictures are drawn with: colours, letters, thumbnails."""

from __future__ import annotations

from PIL import Image, ImageFont

BACKGROUND, TITLE, CAPTION = "#ffffff", "#1a1a1a", "#6b6b6b"
MARGIN, GAP, CAPTION_HEIGHT, TITLE_LINE = 24, 12, 24, 30
TITLE_SIZE, CAPTION_SIZE = 22, 14
_CELL_WIDTH = 256
_TITLE_LINES = 3
_TITLE_CHARACTERS = 1000  # more than these lines hold

# Pillow's own font knows ASCII only. The first of these that is installed draws the rest.
_WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "msgothic.ttc", "DejaVuSans.ttf")


def thumbnail(frame: Image.Image) -> Image.Image:
    """About 256 wide, by a whole factor: a small picture stays sharp and regular."""
    if frame.width <= _CELL_WIDTH:
        factor = max(1, round(_CELL_WIDTH / frame.width))
        size = (frame.width * factor, frame.height * factor)
        return frame.resize(size, Image.Resampling.BICUBIC)
    divisor = round(frame.width / _CELL_WIDTH)
    size = (frame.width // divisor, frame.height // divisor)
    return frame.resize(size, Image.Resampling.LANCZOS)


def wrap(text: str, width: int) -> list[str]:
    """Lines of a title no wider than ``width`` pixels, broken at spaces and, where a word is too
    long (or the script has no spaces), inside of words."""
    letters, lines = font(TITLE_SIZE, text), [""]
    for word in _printable(text[:_TITLE_CHARACTERS]).split():
        joined = f"{lines[-1]} {word}".strip()
        if letters.getlength(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for character in word:
            if lines[-1] and letters.getlength(lines[-1] + character) > width:
                lines.append("")
            lines[-1] += character
    lines = [line for line in lines if line]
    if len(lines) > _TITLE_LINES:
        lines = [*lines[: _TITLE_LINES - 1], lines[_TITLE_LINES - 1] + " …"]
    return lines


def font(size: int, text: str = "") -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Letters that can write ``text``, as far as this machine has some."""
    if text.isascii():
        return ImageFont.load_default(size)
    for name in _WIDE_FONTS:
        try:
            return ImageFont.truetype(name, size)
        except OSError:
            continue
    return ImageFont.load_default(size)


def _printable(text: str) -> str:
    """Control characters and lone surrogates, which fonts cannot draw, become spaces."""
    return "".join(c if c.isprintable() else " " for c in text)
