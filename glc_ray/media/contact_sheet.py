"""A picture of a whole video: evenly spaced frames in a grid under the prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

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
from glc_ray.media.whole_file import whole_file

# Late: it imports torch, and the report page needs none.
if TYPE_CHECKING:
    from glc_ray.media.decode import Frames

_PREVIEW = 3, 2


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
                self.pictures[self.seen + offset] = thumbnail(Image.fromarray(eight_bits(frame)))
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
        inner_width = self._columns * (width + GAP) - GAP
        title = wrap(self._title, inner_width)
        top = MARGIN + len(title) * TITLE_LINE + (GAP if title else 0)
        sheet_height = top + rows * (height + CAPTION_HEIGHT + GAP) - GAP + MARGIN
        sheet = Image.new("RGB", (inner_width + 2 * MARGIN, sheet_height), BACKGROUND)
        draw = ImageDraw.Draw(sheet)
        for number, line in enumerate(title):
            position = (MARGIN, MARGIN + number * TITLE_LINE)
            draw.text(position, line, fill=TITLE, font=font(TITLE_SIZE, self._title))
        for number, frame in enumerate(self.frames):
            row, column = divmod(number, self._columns)
            x = MARGIN + column * (width + GAP)
            y = top + row * (height + CAPTION_HEIGHT + GAP)
            sheet.paste(pictures[frame], (x, y))
            draw.text(
                (x, y + height + 5), self._caption(frame), fill=CAPTION, font=font(CAPTION_SIZE)
            )
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
        image = Image.new("RGB", size, BACKGROUND)
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


def eight_bits(frame: NDArray[Any]) -> NDArray[np.uint8]:
    """Of 16 bits the nearest of 8: 65,535 = 255 * 257."""
    return frame if frame.dtype == np.uint8 else ((frame + np.uint32(128)) // 257).astype(np.uint8)


def _png(picture: Image.Image) -> bytes:
    buffer = BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
