"""Scores of every frame, taken where the frames are: change between neighbours, drift from the
beginning.

They are of the decoded frames in 8 bits, before they are compressed. What each segment of a video
gives is joined to what the whole video would give, exactly, for any division into segments.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from glc_ray.foreign import from_json
from glc_ray.media.contact_sheet import eight_bits

# Late: it imports torch, and the report page needs none.
if TYPE_CHECKING:
    from glc_ray.media.decode import Frames

_LONGEST_SIDE = 128
"""Of the picture that a look is taken from, in pixels."""
_CELLS = 4
_SCALE = 65535


@dataclass(frozen=True)
class SegmentScores:
    """What a segment's frames give, and what its neighbours need of them."""

    change: tuple[float, ...]
    """Of frames 1, 2, … of the segment, each against the one before it."""
    looks: NDArray[np.uint16]
    """(frames, features), see ``look``."""
    first: NDArray[np.uint8]
    """Its first frame (height, width, 3)."""
    last: NDArray[np.uint8]

    def to_json(self) -> bytes:
        """As a small file: nothing is lost."""
        return json.dumps(
            {
                "change": self.change,
                "looks": base64.b64encode(self.looks.astype("<u2").tobytes()).decode(),
                "first": _png(self.first),
                "last": _png(self.last),
            }
        ).encode()

    @classmethod
    def from_json(cls, data: bytes) -> SegmentScores:
        """What ``to_json`` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            values = from_json(data)
            change = tuple(map(float, values["change"]))
            looks = np.frombuffer(base64.b64decode(values["looks"], validate=True), "<u2")
            first, last = _from_png(values["first"]), _from_png(values["last"])
            return cls(change, looks.reshape(len(change) + 1, -1), first, last)
        except (KeyError, TypeError, OSError) as error:
            raise ValueError(f"no scores of a segment: {error}") from None


class FrameScores:
    """Takes the scores of a segment while its frames pass by."""

    def __init__(self) -> None:
        self._change: list[float] = []
        self._looks: list[NDArray[np.uint16]] = []
        self._first: NDArray[np.uint8] | None = None
        self._last: NDArray[np.uint8] | None = None

    def watch(self, batches: Iterable[Frames]) -> Iterator[Frames]:
        """Hand on frames (frames, height, width, 3) as they come, and let them pass by."""
        for frames in batches:
            for frame in frames:
                self.add(eight_bits(frame))
            # A view would keep the whole batch.
            self._last = None if self._last is None else self._last.copy()
            yield frames

    def scores(self) -> SegmentScores:
        """Of the frames that have passed by, at least one."""
        assert self._first is not None, "no frame has passed by"
        assert self._last is not None
        return SegmentScores(tuple(self._change), np.stack(self._looks), self._first, self._last)

    def add(self, frame: NDArray[np.uint8]) -> None:
        """Take the scores of the next frame (height, width, 3), which nobody may change later."""
        if self._last is None:
            self._first = frame.copy()
        else:
            self._change.append(change(self._last, frame))
        self._looks.append(look(frame))
        self._last = frame


@dataclass(frozen=True)
class VideoScores:
    """Of a whole video."""

    change: NDArray[np.float64]
    """(frames − 1), of frames 1, 2, …; grey levels, 0 to 255."""
    drift: NDArray[np.float64]
    """(frames), 0 to 1."""


def join_scores(segments: Sequence[SegmentScores], anchor_frames: int) -> VideoScores:
    """The scores of a video from those of its segments, in order.

    Args:
        segments: at least one.
        anchor_frames: length of the first native clip in frames; see ``drift``.
    """
    values = list(segments[0].change)
    for before, segment in pairwise(segments):
        values += [change(before.last, segment.first), *segment.change]
    looks = np.concatenate([segment.looks for segment in segments])
    return VideoScores(np.array(values), drift(looks, anchor_frames))


def change(before: NDArray[np.uint8], frame: NDArray[np.uint8]) -> float:
    """Temporal change: the mean absolute difference of two frames (height, width, 3), 0 to 255.

    c_t = mean |x_t − x_{t−1}| over pixels and colours, at full size. VBench's temporal flickering
    is (255 − mean_t c_t) / 255 (of the frames of a compressed file).
    """
    difference = np.maximum(before, frame) - np.minimum(before, frame)
    return int(difference.sum(dtype=np.uint64)) / difference.size


def look(frame: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """What a frame looks like, coarsely: colour and edges in the cells of a grid.

    The frame (height, width, 3), reduced by a whole factor to at most 128 pixels, is divided into
    4×4 cells. Of each: the means of red, green and blue, and the mean of (|∂x| + |∂y|) / 2 of their
    average, all from 0 to 1, which is stored as 65535.

    Returns:
        (features), 64 of them, fewer of pictures of fewer than 4 pixels.
    """
    factor = -(-max(frame.shape[:2]) // _LONGEST_SIDE)
    small = np.asarray(Image.fromarray(frame).reduce(factor), np.float32) / 255
    grey = small.mean(axis=2, keepdims=True)
    edges = np.abs(np.diff(grey, axis=0, append=grey[-1:]))
    edges += np.abs(np.diff(grey, axis=1, append=grey[:, -1:]))
    values = np.concatenate([small, edges / 2], axis=2)
    rows, columns = (_starts(length) for length in values.shape[:2])
    sums = np.add.reduceat(np.add.reduceat(values, rows, axis=0), columns, axis=1)
    heights, widths = (
        np.diff(starts, append=length)
        for starts, length in zip((rows, columns), values.shape[:2], strict=True)
    )
    means = sums / (heights[:, None, None] * widths[None, :, None])
    return np.round(means.ravel() * _SCALE).astype(np.uint16)


def drift(looks: NDArray[np.uint16], anchor_frames: int) -> NDArray[np.float64]:
    """How far each frame is from the beginning of its video, 0 to 1.

    d_t = sqrt(mean_k (φ_k(t) − φ̄_k)²), φ the features of ``look`` and φ̄ their mean over the first
    native clip, which no window border lies in.

    Args:
        looks: (frames, features).
        anchor_frames: length of that clip in frames; a shorter video is all anchor.
    """
    features = looks / _SCALE
    return np.sqrt(((features - features[:anchor_frames].mean(axis=0)) ** 2).mean(axis=1))


def _starts(length: int) -> NDArray[np.intp]:
    cells = min(_CELLS, length)
    return np.arange(cells) * length // cells


def _png(frame: NDArray[np.uint8]) -> str:
    buffer = BytesIO()
    Image.fromarray(frame).save(buffer, format="PNG", compress_level=1)
    return base64.b64encode(buffer.getvalue()).decode()


def _from_png(text: Any) -> NDArray[np.uint8]:
    with Image.open(BytesIO(base64.b64decode(text)), formats=["PNG"]) as picture:
        return np.asarray(picture.convert("RGB"))
