"""The procedural world that toyworld is trained on: an object moves over a plain landscape.

A sentence of five free words ("a red ball bounces over the meadow at day") fixes what is seen;
size, speed, phase and place are drawn from a seed. Every motion is periodic, so a clip can have
any number of frames. Colours are RGB in [0, 1], lengths are pixels, times are frames.
"""

import itertools
from dataclasses import dataclass

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
MOTIONS = ("bounces", "rolls", "floats", "swings", "circles")
GROUNDS = {
    "meadow": (88, 118, 72),
    "desert": (212, 184, 136),
    "sea": (52, 104, 122),
    "snow": (232, 236, 242),
}
SKIES = {"day": (164, 206, 232), "dusk": (158, 118, 128), "night": (24, 26, 46)}

_GROUND_LIGHT = {"day": 1.0, "dusk": 0.85, "night": 0.62}
SUNS = {"day": (252, 250, 222), "dusk": (240, 196, 160), "night": (214, 216, 224)}
_SUN_X, _SUN_Y, _SUN_RADIUS = 82.0, 11.0, 5.0
_OUTLINE_WIDTH, _OUTLINE_SHADE = 1.5, 0.45
_NUM_HELD_OUT = 40


@dataclass(frozen=True)
class Caption:
    """The five free words of a sentence."""

    colour: str
    shape: str
    motion: str
    ground: str
    sky: str

    def __str__(self) -> str:
        article = "an" if self.colour[0] in "aeiou" else "a"
        return (
            f"{article} {self.colour} {self.shape} {self.motion} "
            f"over the {self.ground} at {self.sky}"
        )


@dataclass(frozen=True)
class Scene:
    """A caption with everything that the sentence leaves open.

    `radius` is the object's size in pixels, `period` the frames of one cycle of its motion,
    `phase` its place in the cycle at frame 0 (cycles), `drift_phase` the same for the slow
    sideways drift, `reach` the share (0..1) of the motion's full extent.
    """

    caption: Caption
    radius: float
    period: float
    phase: float
    drift_phase: float
    reach: float


CAPTIONS = tuple(
    Caption(*words) for words in itertools.product(COLOURS, SHAPES, MOTIONS, GROUNDS, SKIES)
)


def _choose_held_out() -> tuple[Caption, ...]:
    """40 captions that no training clip shows, the colours in turn."""
    order = np.random.default_rng(20250105).permutation(len(CAPTIONS))
    shuffled = [CAPTIONS[index] for index in order]
    by_colour = [[c for c in shuffled if c.colour == colour] for colour in COLOURS]
    return tuple(by_colour[i % len(COLOURS)][i // len(COLOURS)] for i in range(_NUM_HELD_OUT))


HELD_OUT = _choose_held_out()
TRAINING = tuple(caption for caption in CAPTIONS if caption not in set(HELD_OUT))

# Frames of one cycle, fastest to slowest. The factor of four makes a dilated clip look familiar.
_PERIODS = {
    "bounces": (14, 60),
    "rolls": (30, 120),
    "floats": (20, 80),
    "swings": (20, 80),
    "circles": (22, 88),
}


def sample_scene(rng: np.random.Generator, caption: Caption) -> Scene:
    """Draw what the caption leaves open; periods are log-uniform over a factor of four."""
    fastest, slowest = _PERIODS[caption.motion]
    return Scene(
        caption=caption,
        radius=rng.uniform(11.0, 15.0),
        period=float(np.exp(rng.uniform(np.log(fastest), np.log(slowest)))),
        phase=rng.uniform(),
        drift_phase=rng.uniform(),
        reach=rng.uniform(0.7, 1.0),
    )


def path_of(scene: Scene, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre x and y (pixels) and angle (radians) of the object, each of shape (F,)."""
    frames = np.arange(num_frames)
    turn = 2 * np.pi * (frames / scene.period + scene.phase)
    drift = np.sin(2 * np.pi * (frames / (3.7 * scene.period) + scene.drift_phase))
    middle_x, floor_y = WIDTH / 2, HEIGHT - 6.0 - scene.radius
    still = np.zeros(num_frames)
    match scene.caption.motion:
        case "bounces":
            height = np.abs(np.sin(turn / 2)) * (floor_y - scene.radius - 3) * scene.reach
            return middle_x + 24 * drift, floor_y - height, still
        case "rolls":
            x = middle_x + 34 * scene.reach * np.sin(turn)
            return x, still + floor_y, (x - middle_x) / scene.radius
        case "floats":
            return middle_x + 28 * drift, 26 + 7 * scene.reach * np.sin(turn), 0.25 * np.sin(turn)
        case "swings":
            angle = 0.75 * scene.reach * np.sin(turn)
            return middle_x + 46 * np.sin(angle), -8 + 46 * np.cos(angle), -angle
        case "circles":
            x = middle_x + 28 * scene.reach * np.cos(turn)
            return x, 32 + 14 * scene.reach * np.sin(turn), still
    raise ValueError(f"unknown motion {scene.caption.motion!r}")


def _signed_distance(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Distance in pixels to the outline of the shape around the origin, negative inside."""
    if shape == "ball":
        return np.hypot(x, y) - radius
    if shape == "box":
        return np.maximum(np.abs(x), np.abs(y)) - 0.9 * radius
    slope_x, slope_y = np.sqrt(3) / 2, 0.5
    sides = np.maximum(np.abs(x) * slope_x - y * slope_y, y)
    return sides - 0.64 * radius


def _background(caption: Caption) -> np.ndarray:
    """The empty landscape, (H, W, 3)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    sky = np.array(SKIES[caption.sky]) * (1.0 + 0.1 * y[..., None] / HORIZON)
    sun = np.clip(_SUN_RADIUS + 0.5 - np.hypot(x - _SUN_X, y - _SUN_Y), 0, 1)[..., None]
    sky = sky + (np.array(SUNS[caption.sky]) - sky) * sun
    depth = (y[..., None] - HORIZON) / (HEIGHT - HORIZON)
    ground = lit_ground(caption.ground, caption.sky) * 255 * (1.04 - 0.08 * depth)
    picture = np.where(y[..., None] < HORIZON, sky, ground)
    return np.clip(picture / 255, 0, 1).astype(np.float32)


def lit_ground(ground: str, sky: str) -> np.ndarray:
    """Mean colour (3,) of a ground in the light of a sky."""
    return np.array(GROUNDS[ground]) * _GROUND_LIGHT[sky] / 255


def render(scene: Scene, num_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw a clip.

    Returns the video (F, H, W, 3) and the object's coverage (F, H, W), float32 in [0, 1].
    """
    centre_x, centre_y, angle = (
        p[:, None, None].astype(np.float32) for p in path_of(scene, num_frames)
    )
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.float32)
    x, y = x - centre_x, y - centre_y
    turned_x = np.cos(angle) * x + np.sin(angle) * y
    turned_y = np.cos(angle) * y - np.sin(angle) * x
    distance = _signed_distance(scene.caption.shape, turned_x, turned_y, scene.radius)
    mask = np.clip(0.5 - distance, 0, 1).astype(np.float32)
    fill = np.clip(0.5 - distance - _OUTLINE_WIDTH, 0, 1).astype(np.float32)
    shade = _OUTLINE_SHADE + (1 - _OUTLINE_SHADE) * fill
    colour = np.array(COLOURS[scene.caption.colour], dtype=np.float32) / 255
    background = _background(scene.caption)
    video = background + mask[..., None] * (shade[..., None] * colour - background)
    return video, mask
