"""The scores of one video as a file: of every frame, and in a few numbers.

JSON, not Parquet: some thousands of numbers for one video are read whole, by anything, a browser
included, and Parquet's own footer would be larger than a short video's numbers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np

from glc_ray.foreign import from_json
from glc_ray.media.frame_scores import VideoScores

_FORMAT = 1


@dataclass(frozen=True)
class Summary:
    """A video in four numbers."""

    mean_change: float
    """Mean temporal change, in grey levels of 255."""
    flickering: float
    """VBench's temporal flickering of the frames before compression, (255 − mean change) / 255."""
    seam: float | None
    """Mean change at the borders that every step has, by the mean change at all other frames: 1
    where no seam is; None where there is no such border, or nothing moves."""
    drift: float
    """Mean drift of the last native clip, 0 to 1."""


@dataclass(frozen=True)
class ScoresFile:
    """What the file of a video holds."""

    fps: float
    anchor_frames: int
    """Length of the first native clip, which drift is measured from."""
    change: tuple[float, ...]
    """Of frames 1, 2, …, each against the one before it: see ``frame_scores.change``."""
    drift: tuple[float, ...]
    """Of every frame: see ``frame_scores.drift``."""
    window_borders: tuple[tuple[int, float], ...]
    """Frame, and share of the steps: see ``window_borders``."""
    summary: Summary

    def to_json(self) -> bytes:
        """As a file."""
        return json.dumps({"format": _FORMAT, **asdict(self)}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> ScoresFile:
        """What ``to_json`` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            values = from_json(data)
            if values.pop("format") != _FORMAT:
                raise ValueError("another format")
            summary = Summary(**values.pop("summary"))
            borders = tuple((int(frame), float(share)) for frame, share in values["window_borders"])
            return cls(
                fps=float(values["fps"]),
                anchor_frames=int(values["anchor_frames"]),
                change=tuple(map(float, values["change"])),
                drift=tuple(map(float, values["drift"])),
                window_borders=borders,
                summary=summary,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"no scores of a video: {error}") from None


def scores_file(
    scores: VideoScores, *, fps: float, anchor_frames: int, borders: Mapping[int, float]
) -> ScoresFile:
    """What is stored of a video's scores.

    Args:
        scores: of its frames.
        fps: frames per second.
        anchor_frames: as of ``join_scores``.
        borders: share of the steps by frame, as ``window_borders`` gives them.
    """
    return ScoresFile(
        fps=fps,
        anchor_frames=anchor_frames,
        # More digits than anybody sees, and fewer than would make the file large.
        change=tuple(round(float(value), 4) for value in scores.change),
        drift=tuple(round(float(value), 6) for value in scores.drift),
        window_borders=tuple((frame, round(share, 3)) for frame, share in sorted(borders.items())),
        summary=summarise(scores, anchor_frames, borders),
    )


def summarise(scores: VideoScores, anchor_frames: int, borders: Mapping[int, float]) -> Summary:
    """The few numbers; arguments as ``scores_file``."""
    change = scores.change
    mean_change = float(change.mean()) if len(change) else 0.0
    at_border = np.zeros(len(change), bool)
    # The change of frame t has index t − 1.
    at_border[[frame - 1 for frame, share in borders.items() if share == 1]] = True
    seam = None
    if at_border.any() and not at_border.all() and change[~at_border].mean() > 0:
        seam = float(change[at_border].mean() / change[~at_border].mean())
    assert seam is None or math.isfinite(seam)
    return Summary(
        mean_change=mean_change,
        flickering=(255 - mean_change) / 255,
        seam=seam,
        drift=float(scores.drift[-anchor_frames:].mean()),
    )
