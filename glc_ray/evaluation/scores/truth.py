"""The true scores of the embedded model's world: its rules are known, so right is right.

``toyworld.present``, ``.colour``, ``.shape``, ``.motion``, ``.speed``, ``.longest_step`` and
``.background_change``: see ``toyworld.rules.long_video_scores``. Of videos whose prompt is no
sentence of that world there are none.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from glc_ray.evaluation.scores.measure import Facts, Measured
from glc_ray.evaluation.toyworld.looks import COLOURS, GROUNDS, HEIGHT, SHAPES, SKIES, WIDTH
from glc_ray.evaluation.toyworld.motion import MOTIONS
from glc_ray.evaluation.toyworld.rules import (
    NATIVE_FRAMES,
    Readings,
    background_change,
    joined_readings,
    long_video_scores_of,
    read_landscape,
    read_object,
)
from glc_ray.media.read import Frame

NAMES = ("present", "colour", "shape", "motion", "speed", "longest_step", "background_change")
_CHUNK = 64
_SENTENCE = re.compile(
    rf"an? ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)}) ({'|'.join(map(re.escape, MOTIONS))})"
    rf" over the ({'|'.join(GROUNDS)}) at ({'|'.join(SKIES)})"
)


class ToyworldTruth:
    """Reads what each frame shows, a few dozen at a time."""

    def __init__(self, facts: Facts) -> None:
        self._sentence = _SENTENCE.fullmatch(facts.prompt.strip().lower())
        self._waiting: list[Frame] = []
        self._landscape: tuple[str, str] | None = None
        self._first: tuple[Frame, Readings] | None = None
        self._readings: list[Readings] = []
        self._change = 0.0

    def add(self, frame: Frame) -> None:
        if self._sentence is None or frame.shape[:2] != (HEIGHT, WIDTH):
            self._sentence = None
            return
        self._waiting.append(frame)
        if len(self._waiting) >= _CHUNK:
            self._flush()

    def results(self) -> Iterator[Measured]:
        if self._waiting:
            self._flush()
        if self._sentence is None or not self._readings:
            return
        readings = joined_readings(self._readings)
        colour, shape, motion = self._sentence.groups()[:3]
        values = long_video_scores_of(readings, self._change, colour, shape, motion)
        curves = {
            "present": np.isfinite(readings.radii),
            "colour": np.array([seen == colour for seen in readings.colours]),
            "shape": np.array([seen == shape for seen in readings.shapes]),
        }
        for name in NAMES:
            # Without an object there is no step that could be measured, nor motion of few frames.
            if np.isfinite(values[name]):
                curve = curves.get(name)
                as_numbers = None if curve is None else curve.astype(np.float64)
                yield Measured(f"toyworld.{name}", values[name], as_numbers)

    def _flush(self) -> None:
        frames, self._waiting = np.stack(self._waiting), []
        if self._landscape is None:
            self._landscape = read_landscape(frames[:NATIVE_FRAMES])
        readings = read_object(frames, *self._landscape)
        self._readings.append(readings)
        if self._first is None:
            self._first = frames[0], read_object(frames[:1], *self._landscape)
        # The background changes against the first frame of all.
        first, of_first = self._first
        with_first = np.concatenate([first[None], frames])
        change = background_change(with_first, joined_readings([of_first, readings]))
        self._change = max(self._change, change)
