"""The frames of a finished video, one at a time: what is scored is what people see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glc_ray.protocols import UserError

Frame: TypeAlias = NDArray[np.uint8]
"""(height, width, 3), red, green and blue."""

VIDEO_SUFFIXES = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif")
_PICTURE_SUFFIXES = (".png", ".webp", ".tif", ".tiff", ".jpg", ".jpeg")


class UnreadableError(UserError):
    """A video cannot be read; the message says which and why."""


@dataclass(frozen=True)
class OpenVideo:
    """A video that is being read."""

    fps: float
    """0 where the file does not say: a folder of pictures."""
    frames: Iterator[Frame]
    """Once, all of one size; raises UnreadableError where the file is damaged."""


@contextmanager
def opened(path: Path) -> Iterator[OpenVideo]:
    """Read a video file, or a folder of pictures in the order of their names.

    No more than a frame and what the decoder holds is in memory. Colours are those that the file's
    tags say. (OpenCV, by which VBench reads, takes every file for BT.601; of those that are, frames
    are the same bits.)

    Raises:
        UnreadableError: it is neither, or has no frames.
        UserError: PyAV is not installed.
    """
    if path.is_dir():
        yield OpenVideo(0.0, _of_one_size(_pictures(path), path))
        return
    try:
        import av
    except ImportError:
        raise UserError(
            "reading videos needs PyAV (package av): pip install 'glc-ray[evaluate]'"
        ) from None
    try:
        # A file names no other files or hosts that are read in its place.
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise UnreadableError(f"{path}: has no video in it")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            frames = _of_one_size(_decoded(container, stream, path), path)
            yield OpenVideo(float(stream.average_rate or 0), frames)
    except (av.error.FFmpegError, OSError) as error:
        raise _unreadable(path, error) from None


def _decoded(container: Any, stream: Any, path: Path) -> Iterator[Frame]:
    import av

    found = False
    try:
        for frame in container.decode(stream):
            found = True
            yield frame.to_ndarray(format="rgb24")
    except (av.error.FFmpegError, OSError) as error:
        raise _unreadable(path, error) from None
    if not found:
        raise UnreadableError(f"{path}: no frame of it can be read")


def _pictures(folder: Path) -> Iterator[Frame]:
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _PICTURE_SUFFIXES)
    if not files:
        raise UnreadableError(
            f"{folder}: has no pictures in it; those that are read end with "
            + ", ".join(_PICTURE_SUFFIXES)
        )
    for file in files:
        try:
            with Image.open(file) as picture:
                yield np.asarray(picture.convert("RGB"))
        # Pillow's of files that are damaged, or larger than they can be.
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise _unreadable(file, error) from None


def _of_one_size(frames: Iterator[Frame], path: Path) -> Iterator[Frame]:
    """Recordings of calls change their size on the way, which no score knows how to take."""
    size: tuple[int, ...] | None = None
    for number, frame in enumerate(frames):
        height, width = frame.shape[:2]
        if size is not None and size != (height, width):
            raise UnreadableError(
                f"{path}: frame {number} is {width}×{height}, the first is {size[1]}×{size[0]}"
            )
        size = height, width
        yield frame


def cut_short(path: str, num_frames: int, wanted: int) -> UnreadableError:
    """The error of a video that has fewer frames, or more, than were rendered."""
    return UnreadableError(
        f"{path}: has {num_frames} frames, of {wanted} in the manifest; it was cut short or "
        "replaced: render it again with --force"
    )


def _unreadable(path: Path, error: Exception) -> UnreadableError:
    why = (str(error).splitlines() or [type(error).__name__])[0]
    return UnreadableError(f"{path}: cannot be read as a video: {why}")
