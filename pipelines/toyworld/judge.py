"""Read colour, shape, ground and sky off a clip by rule: nearest colours in known places."""

from dataclasses import dataclass

import numpy as np
from world import COLOURS, GROUNDS, SHAPES, SKIES, SUNS, lit_ground

_MIN_AREA, _MAX_AREA = 80, 1000
"""Pixels of one frame that a plausible object covers."""
_MIN_SHARE = 0.6
"""Share of the frames that must show a plausible object of the colour."""
_MAX_DISTANCE = 0.35
"""RGB distance up to which a pixel counts as an object's colour."""
_SPREADS = np.array([0.98, 1.27, 1.84])
"""Squared reach of ball, box and triangle in units of a disc's of the same area."""


@dataclass(frozen=True)
class Verdict:
    """What a clip shows; colour and shape are None if there is no plausible object."""

    colour: str | None
    shape: str | None
    ground: str
    sky: str


def judge(video: np.ndarray) -> Verdict:
    """Judge a clip (F, H, W, 3) with values in [0, 1]."""
    corners = np.concatenate([video[:, :8, :10], video[:, :4, -10:]], axis=1).reshape(-1, 3)
    sky = _nearest(np.median(corners, axis=0), {s: np.array(SKIES[s]) / 255 for s in SKIES})
    strip = np.median(video[:, -6:].reshape(-1, 3), axis=0)
    ground = _nearest(strip, {g: lit_ground(g, sky) for g in GROUNDS})
    classes = _classify(video, ground, sky)
    colour = _object_colour(classes)
    shape = None if colour is None else _object_shape(classes == colour)
    return Verdict(None if colour is None else tuple(COLOURS)[colour], shape, ground, sky)


def _nearest(colour: np.ndarray, palette: dict[str, np.ndarray]) -> str:
    return min(palette, key=lambda name: float(np.square(palette[name] - colour).sum()))


def _classify(video: np.ndarray, ground: str, sky: str) -> np.ndarray:
    """Index in COLOURS of each pixel (F, H, W); 7 or more for background and the unclear."""
    background = [lit_ground(ground, sky), np.array(SKIES[sky]) / 255, np.array(SUNS[sky]) / 255]
    palette = np.concatenate([np.array(list(COLOURS.values())) / 255, background])
    distances = np.linalg.norm(video[..., None, :] - palette, axis=-1)
    return np.where(distances.min(-1) < _MAX_DISTANCE, distances.argmin(-1), len(palette))


def _object_colour(classes: np.ndarray) -> int | None:
    """The colour with the largest area in most frames, if that area is plausible."""
    areas = np.stack([(classes == index).sum((1, 2)) for index in range(len(COLOURS))])
    winner = int(areas.sum(1).argmax())
    shown = (areas.argmax(0) == winner) & (areas[winner] > _MIN_AREA) & (areas[winner] < _MAX_AREA)
    return winner if shown.mean() >= _MIN_SHARE else None


def _object_shape(masks: np.ndarray) -> str:
    """Shape by how far the object reaches for its area: median over the frames (F, H, W)."""
    spreads = []
    for mask in masks:
        y, x = np.nonzero(mask)
        if len(y) > _MIN_AREA:
            squared = np.square(y - y.mean()) + np.square(x - x.mean())
            spreads.append(np.pi * np.quantile(squared, 0.98) / len(y))
    return SHAPES[int(np.abs(_SPREADS - np.median(spreads)).argmin())]
