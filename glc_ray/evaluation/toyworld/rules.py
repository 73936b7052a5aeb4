"""What a clip of the embedded model's world shows, frame by frame, and whether that is right.

Frames are (F, 64, 96, 3) uint8. The empty landscape is known exactly, so the object is what
differs from it; its shape is the drawn shape that overlaps it best at any angle.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from glc_ray.evaluation.toyworld.looks import (
    AREAS,
    COLOURS,
    GROUNDS,
    HEIGHT,
    SHAPES,
    SKIES,
    WIDTH,
    landscape,
    lit_ground,
    signed_distance,
)
from glc_ray.evaluation.toyworld.motion import (
    MOTIONS,
    fit_motion,
    largest_step,
    mean_speed,
    steps_of,
)

_FAR = 45.0
"""RGB distance from the landscape at which a pixel belongs to the object."""
_LEAST_AREA, _MOST_AREA = 150, 1200
"""Pixels of one frame that a plausible object covers; the world's cover 300 to 800."""
_MOST_COLOUR_DISTANCE = 100.0
"""RGB distance up to which a colour has a name."""
_LEAST_OVERLAP = 0.7
"""Intersection over union with the best shape from which an object has a shape."""
_NUM_ANGLES = 12
"""Angles tried within one symmetry of a shape."""
NATIVE_FRAMES = 25
"""Of a native clip, by which motion is judged."""
FAR_FROM_LAW = 2.5
"""RMS distance in pixels up to which a path follows a motion's law."""
LONGEST_STEP = 9.0
"""Pixels an object moves in one frame at most; the world's fastest does 6."""


@dataclass(frozen=True)
class Readings:
    """What each of F frames shows of the object.

    `colours` and `shapes` hold words, None where the frame shows no plausible object or none
    with a name; `centres` (F, 2) is x and y in pixels, NaN without an object; `radii` (F,) the
    size that the area says, in pixels; `overlaps` (F,) in 0..1 how well the best shape fits.
    """

    colours: tuple[str | None, ...]
    shapes: tuple[str | None, ...]
    centres: np.ndarray
    radii: np.ndarray
    overlaps: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """What a clip shows; a word is None if no one word says it."""

    colour: str | None
    shape: str | None
    motion: str | None
    ground: str
    sky: str


def judge(frames: np.ndarray) -> Verdict:
    """Read a native clip: most frequent colour and shape over the frames, nearest law."""
    ground, sky = read_landscape(frames)
    readings = read_object(frames, ground, sky)
    return Verdict(
        colour=_most_frequent(readings.colours),
        shape=_most_frequent(readings.shapes),
        motion=motion_of(readings),
        ground=ground,
        sky=sky,
    )


def read_landscape(frames: np.ndarray) -> tuple[str, str]:
    """Ground and sky: nearest colours where objects seldom come."""
    corners = np.concatenate([frames[:, :8, :10], frames[:, :4, -10:]], axis=1)
    sky = _nearest(np.median(corners.reshape(-1, 3), axis=0), SKIES)
    strip = np.median(frames[:, -6:].reshape(-1, 3), axis=0)
    return _nearest(strip, {ground: lit_ground(ground, sky) for ground in GROUNDS}), sky


def read_object(frames: np.ndarray, ground: str, sky: str) -> Readings:
    """Read the object off each frame of a clip with a known landscape."""
    empty = landscape(ground, sky)
    colours, shapes, centres, radii, overlaps = [], [], [], [], []
    for frame in frames:
        mask = np.linalg.norm(frame - empty, axis=-1) > _FAR
        area = int(mask.sum())
        colour = shape = None
        centre, radius, overlap = (np.nan, np.nan), np.nan, 0.0
        if _LEAST_AREA <= area <= _MOST_AREA:
            y, x = np.nonzero(mask)
            centre = (x.mean(), y.mean())
            best, overlap = _best_shape(mask, centre)
            radius = float(np.sqrt(area / AREAS[best]))
            shape = best if overlap >= _LEAST_OVERLAP else None
            colour = _name_of(np.median(frame[mask], axis=0))
        colours.append(colour)
        shapes.append(shape)
        centres.append(centre)
        radii.append(radius)
        overlaps.append(overlap)
    return Readings(
        tuple(colours), tuple(shapes), np.array(centres), np.array(radii), np.array(overlaps)
    )


def motion_of(readings: Readings) -> str | None:
    """The motion whose law the object's path follows best.

    None if the object is missing from a tenth of the frames, jumps, or follows no law.
    """
    present = np.isfinite(readings.radii)
    if present.mean() < 0.9 or largest_step(readings.centres) > LONGEST_STEP:
        return None
    radius = float(np.median(readings.radii[present]))
    distances = {m: fit_motion(m, radius, readings.centres).distance for m in MOTIONS}
    nearest = min(distances, key=distances.__getitem__)
    return nearest if distances[nearest] <= FAR_FROM_LAW else None


def long_video_scores(frames: np.ndarray, colour: str, shape: str, motion: str) -> dict[str, float]:
    """How well a video of any length keeps to its sentence; the landscape is read off its start.

    present, colour, shape: share of frames that show an object, one of this colour, this shape.
    speed: mean distance between centres of neighbouring frames, by what it is over all clips of
    the motion: 1 is as fast as the world on average, 0 is still; NaN without an object.
    longest_step: pixels, largest distance between centres of neighbouring frames; NaN likewise.
    motion: share of spans of 25 frames, half overlapping, that follow the motion's law
    better than the others'; NaN of a video that has no such span.
    background_change: largest change of a frame's landscape from the first frame's, RGB distance
    averaged over the pixels that are far from the object in both.
    """
    readings = read_object(frames, *read_landscape(frames[:NATIVE_FRAMES]))
    change = background_change(frames, readings)
    return long_video_scores_of(readings, change, colour, shape, motion)


def long_video_scores_of(
    readings: Readings, change: float, colour: str, shape: str, motion: str
) -> dict[str, float]:
    """As ``long_video_scores``, from what was read off all frames and their background change."""
    steps = steps_of(readings.centres)
    starts = range(0, len(readings.colours) - NATIVE_FRAMES + 1, NATIVE_FRAMES // 2)
    spans = [_span(readings, start, start + NATIVE_FRAMES) for start in starts]
    return {
        "present": float(np.isfinite(readings.radii).mean()),
        "colour": float(np.mean([seen == colour for seen in readings.colours])),
        "shape": float(np.mean([seen == shape for seen in readings.shapes])),
        "speed": float(steps.mean()) / mean_speed(motion) if len(steps) else np.nan,
        "longest_step": float(steps.max()) if len(steps) else np.nan,
        "motion": float(np.mean([motion_of(s) == motion for s in spans])) if spans else np.nan,
        "background_change": change,
    }


def joined_readings(parts: Sequence[Readings]) -> Readings:
    """The readings of parts of a video, in order, as one."""
    return Readings(
        tuple(word for part in parts for word in part.colours),
        tuple(word for part in parts for word in part.shapes),
        np.concatenate([part.centres for part in parts]),
        np.concatenate([part.radii for part in parts]),
        np.concatenate([part.overlaps for part in parts]),
    )


def background_change(frames: np.ndarray, readings: Readings) -> float:
    """Largest mean RGB distance of a frame from the first one, away from the object in both."""
    first, first_clear = frames[0].astype(np.float32), _clear(readings, 0)
    changes = []
    for index, frame in enumerate(frames):
        clear = first_clear & _clear(readings, index)
        changes.append(float(np.linalg.norm(frame - first, axis=-1)[clear].mean()))
    return max(changes)


def _clear(readings: Readings, index: int) -> np.ndarray:
    """Pixels (H, W) that are more than two radii from the object's centre."""
    (x, y), radius = readings.centres[index], readings.radii[index]
    if not np.isfinite(radius):
        return np.ones((HEIGHT, WIDTH), dtype=bool)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.hypot(columns - x, rows - y) > 2 * radius


def _span(readings: Readings, start: int, stop: int) -> Readings:
    part = slice(start, stop)
    return Readings(
        readings.colours[part],
        readings.shapes[part],
        readings.centres[part],
        readings.radii[part],
        readings.overlaps[part],
    )


def _most_frequent(words: tuple[str | None, ...]) -> str | None:
    """The word of more than half of the frames."""
    for word in set(words) - {None}:
        if 2 * words.count(word) > len(words):
            return word
    return None


def _nearest(colour: np.ndarray, palette: dict) -> str:
    return min(palette, key=lambda name: float(np.square(np.array(palette[name]) - colour).sum()))


def _name_of(colour: np.ndarray) -> str | None:
    name = _nearest(colour, COLOURS)
    near = np.linalg.norm(np.array(COLOURS[name]) - colour) <= _MOST_COLOUR_DISTANCE
    return name if near else None


_REACH = 24
"""Half the width in pixels of the square in which a shape is compared."""


@cache
def _drawings(area: int) -> tuple[list[str], np.ndarray]:
    """Shapes of this area at every angle: their names, and masks (N, P) on the square, flat."""
    y, x = np.mgrid[-_REACH : _REACH + 1, -_REACH : _REACH + 1].astype(np.float32)
    names, masks = [], []
    symmetries = {"ball": 0.0, "box": np.pi / 2, "triangle": 2 * np.pi / 3}
    for shape in SHAPES:
        radius = np.sqrt(area / AREAS[shape])
        angles = np.linspace(0, symmetries[shape], _NUM_ANGLES, endpoint=False)
        for angle in angles[: 1 if shape == "ball" else None]:
            turned_x = np.cos(angle) * x + np.sin(angle) * y
            turned_y = np.cos(angle) * y - np.sin(angle) * x
            names.append(shape)
            masks.append(signed_distance(shape, turned_x, turned_y, radius).ravel() < 0)
    return names, np.array(masks)


def _best_shape(mask: np.ndarray, centre: tuple[float, float]) -> tuple[str, float]:
    """The shape that overlaps a mask (H, W) best, and by which intersection over union."""
    column, row = (round(float(place)) for place in centre)
    padded = np.pad(mask, _REACH)
    square = padded[row : row + 2 * _REACH + 1, column : column + 2 * _REACH + 1].ravel()
    names, drawings = _drawings(int(mask.sum()))
    common = (drawings & square).sum(1)
    overlaps = common / (drawings.sum(1) + mask.sum() - common)
    best = int(overlaps.argmax())
    return names[best], float(overlaps[best])
