"""What is stored of a video's evaluation: all its scores, with their curves, as JSON."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from glc_ray.evaluation.scores.measure import Measured
from glc_ray.evaluation.scoring import Evaluated, Video
from glc_ray.foreign import from_json
from glc_ray.store.output import Output
from glc_ray.store.paths import evaluation_path
from glc_ray.store.storage import OutsideError

_FORMAT = 2
"""Another number where a formula changes: what is stored is then evaluated again."""


@dataclass(frozen=True)
class StoredCurve:
    """Numbers of frames ``first``, ``first + step``, …"""

    values: tuple[float, ...]
    first: int
    step: int


@dataclass(frozen=True)
class EvaluationFile:
    """What the file of a video holds."""

    finished_at: float
    """Of the video's row in the manifest: of one that was rendered later it says nothing."""
    num_frames: int
    fps: float
    asked: tuple[str, ...]
    """Names that were looked for; of some of them there may be no score."""
    values: Mapping[str, float]
    curves: Mapping[str, StoredCurve]

    def to_json(self) -> bytes:
        """As a file."""
        curves = {
            name: {"first": curve.first, "step": curve.step, "values": curve.values}
            for name, curve in self.curves.items()
        }
        facts = {"finished_at": self.finished_at, "num_frames": self.num_frames, "fps": self.fps}
        data = {**facts, "asked": self.asked, "values": self.values, "curves": curves}
        return json.dumps({"format": _FORMAT, **data}, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes) -> EvaluationFile:
        """What ``to_json`` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            values = from_json(data)
            if values["format"] != _FORMAT:
                raise ValueError("another format")
            return cls(
                finished_at=float(values["finished_at"]),
                num_frames=int(values["num_frames"]),
                fps=float(values["fps"]),
                asked=tuple(map(str, values["asked"])),
                values={str(name): _finite(one) for name, one in values["values"].items()},
                curves={str(name): _curve(one) for name, one in values["curves"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"no evaluation of a video: {error}") from None

    def has(self, names: Iterable[str]) -> bool:
        """Whether all of these were looked for."""
        return set(names) <= set(self.asked)

    @property
    def digest(self) -> str:
        """Tells evaluations of a video apart, by what was asked and what was found."""
        facts = [self.finished_at, sorted(self.asked), sorted(self.values.items())]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:8]

    def without_curves(self) -> EvaluationFile:
        """What is kept of each of many videos."""
        return replace(self, curves={})

    def with_scores(self, asked: Iterable[str], scores: Iterable[Measured]) -> EvaluationFile:
        """With others beside those that are there, or in their place."""
        found = tuple(scores)
        values = {one.name: one.value for one in found}
        curves = {one.name: _stored(one) for one in found if one.curve is not None}
        return self.beside(replace(self, asked=tuple(asked), values=values, curves=curves))

    def beside(self, other: EvaluationFile) -> EvaluationFile:
        """With the scores of another evaluation of the same video in place of one's own."""
        values = {name: value for name, value in self.values.items() if name not in other.asked}
        curves = {name: curve for name, curve in self.curves.items() if name not in other.asked}
        return replace(
            other,
            num_frames=other.num_frames or self.num_frames,
            asked=tuple(dict.fromkeys((*self.asked, *other.asked))),
            values={**values, **other.values},
            curves={**curves, **other.curves},
        )


def evaluation_file(video: Video, done: Evaluated) -> EvaluationFile:
    """A file without scores yet."""
    return EvaluationFile(video.finished_at, done.num_frames, done.fps, (), {}, {})


def read_evaluation(output: Output, name: str, finished_at: float) -> EvaluationFile | None:
    """What is stored of a video's evaluation; None where that is nothing, or of an older file.

    Args:
        output: that the video is of.
        name: of the video.
        finished_at: of its row in the manifest.
    """
    try:
        file = EvaluationFile.from_json(output.read_bytes(evaluation_path(name)) or b"")
    except (ValueError, OutsideError):
        return None
    return file if file.finished_at == finished_at else None


def add_evaluation(output: Output, name: str, found: EvaluationFile) -> EvaluationFile:
    """Store what was found beside what is there, whoever found that; returns both together."""
    with output.locked():
        before = read_evaluation(output, name, found.finished_at)
        file = found if before is None else before.beside(found)
        output.put_bytes(file.to_json(), evaluation_path(name))
    return file


def _stored(score: Measured) -> StoredCurve:
    assert score.curve is not None
    # More digits than anybody sees, and fewer than would make the file large.
    values = tuple(float(f"{value:.6g}") for value in score.curve)
    return StoredCurve(values, score.first, score.step)


def _curve(given: Any) -> StoredCurve:
    first, step = int(given["first"]), int(given["step"])
    if first < 0 or step < 1:
        raise ValueError("a curve without a beginning")
    return StoredCurve(tuple(map(_finite, given["values"])), first, step)


def _finite(given: Any) -> float:
    value = float(given)
    if not math.isfinite(value):
        raise ValueError(f"{value} is no score")
    return value
