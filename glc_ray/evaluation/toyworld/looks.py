"""How the words of the embedded model's world look: colours, shapes and landscapes.

Colours are RGB in 0..255, lengths are pixels.
"""

import numpy as np

HEIGHT, WIDTH, HORIZON = 64, 96, 40

COLOURS = {
    "red": (225, 25, 35),
    "orange": (252, 128, 12),
    "yellow": (252, 228, 30),
    "green": (30, 225, 60),
    "blue": (35, 70, 250),
    "purple": (145, 30, 205),
    "pink": (255, 90, 190),
}
SHAPES = ("ball", "box", "triangle")
GROUNDS = {
    "meadow": (88, 118, 72),
    "desert": (212, 184, 136),
    "sea": (52, 104, 122),
    "snow": (232, 236, 242),
}
SKIES = {"day": (164, 206, 232), "dusk": (158, 118, 128), "night": (24, 26, 46)}

_GROUND_LIGHT = {"day": 1.0, "dusk": 0.85, "night": 0.62}
_SUNS = {"day": (252, 250, 222), "dusk": (240, 196, 160), "night": (214, 216, 224)}
_SUN_X, _SUN_Y, _SUN_RADIUS = 82.0, 11.0, 5.0
_BOX_HALF, _TRIANGLE_INRADIUS = 0.9, 0.64
"""Half a side of the box and the triangle's inscribed circle, in object radii."""
AREAS = {"ball": np.pi, "box": 4 * _BOX_HALF**2, "triangle": 3**1.5 * _TRIANGLE_INRADIUS**2}
"""Area of each shape in squared object radii."""


def lit_ground(ground: str, sky: str) -> np.ndarray:
    """Mean colour (3,) of a ground in the light of a sky."""
    return np.array(GROUNDS[ground]) * _GROUND_LIGHT[sky]


def landscape(ground: str, sky: str) -> np.ndarray:
    """The empty landscape, (H, W, 3) float32 in 0..255."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    above = np.array(SKIES[sky]) * (1.0 + 0.1 * y[..., None] / HORIZON)
    sun = np.clip(_SUN_RADIUS + 0.5 - np.hypot(x - _SUN_X, y - _SUN_Y), 0, 1)[..., None]
    above = above + (np.array(_SUNS[sky]) - above) * sun
    depth = (y[..., None] - HORIZON) / (HEIGHT - HORIZON)
    below = lit_ground(ground, sky) * (1.04 - 0.08 * depth)
    return np.clip(np.where(y[..., None] < HORIZON, above, below), 0, 255).astype(np.float32)


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Distance to the outline of the shape around the origin, negative inside."""
    if shape == "ball":
        return np.hypot(x, y) - radius
    if shape == "box":
        return np.maximum(np.abs(x), np.abs(y)) - _BOX_HALF * radius
    sides = np.maximum(np.abs(x) * (np.sqrt(3) / 2) - y * 0.5, y)
    return sides - _TRIANGLE_INRADIUS * radius
