"""The procedural world that toyworld is trained on: an object moves over a plain landscape.

A sentence of five free words ("a red ball bounces over the meadow at day") fixes what is seen;
size, speed, phase and place are drawn from a seed. Every motion is periodic, so a clip can have
any number of frames. Colours are RGB in [0, 1], lengths are pixels, times are frames.
"""

import itertools
from dataclasses import dataclass

import numpy as np

from glc_ray.evaluation.toyworld import motion as laws
from glc_ray.evaluation.toyworld.looks import (
    COLOURS,
    GROUNDS,
    HEIGHT,
    SHAPES,
    SKIES,
    WIDTH,
    landscape,
    signed_distance,
)
from glc_ray.evaluation.toyworld.motion import MOTIONS

_OUTLINE_WIDTH, _OUTLINE_SHADE = 1.5, 0.45
_NUM_HELD_OUT = 100


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
    """100 captions that no training clip shows, the colours in turn."""
    order = np.random.default_rng(20250105).permutation(len(CAPTIONS))
    shuffled = [CAPTIONS[index] for index in order]
    by_colour = [[c for c in shuffled if c.colour == colour] for colour in COLOURS]
    return tuple(by_colour[i % len(COLOURS)][i // len(COLOURS)] for i in range(_NUM_HELD_OUT))


HELD_OUT = _choose_held_out()
TRAINING = tuple(caption for caption in CAPTIONS if caption not in set(HELD_OUT))


def sample_scene(rng: np.random.Generator, caption: Caption) -> Scene:
    """Draw what the caption leaves open; periods are log-uniform over a factor of three."""
    fastest, slowest = laws.PERIODS[caption.motion]
    return Scene(
        caption=caption,
        radius=rng.uniform(*laws.RADII),
        period=float(np.exp(rng.uniform(np.log(fastest), np.log(slowest)))),
        phase=rng.uniform(),
        drift_phase=rng.uniform(),
        reach=rng.uniform(laws.LEAST_REACH, 1.0),
    )


def path_of(scene: Scene, num_frames: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre x and y (pixels) and angle (radians) of the object, each of shape (F,)."""
    frames, motion = np.arange(num_frames), scene.caption.motion
    turn = 2 * np.pi * (frames / scene.period + scene.phase)
    drift_period = laws.DRIFT_PERIODS * scene.period
    drift_turn = 2 * np.pi * (frames / drift_period + scene.drift_phase)
    x, y = laws.path_of(motion, scene.radius, turn, drift_turn, scene.reach)
    match motion:
        case "rolls":
            return x, y, (x - WIDTH / 2) / scene.radius
        case "floats":
            return x, y, 0.25 * np.sin(turn)
        case "swings":
            return x, y, -0.75 * scene.reach * np.sin(turn)
    return x, y, np.zeros(num_frames)


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
    distance = signed_distance(scene.caption.shape, turned_x, turned_y, scene.radius)
    mask = np.clip(0.5 - distance, 0, 1).astype(np.float32)
    fill = np.clip(0.5 - distance - _OUTLINE_WIDTH, 0, 1).astype(np.float32)
    shade = _OUTLINE_SHADE + (1 - _OUTLINE_SHADE) * fill
    colour = np.array(COLOURS[scene.caption.colour], dtype=np.float32) / 255
    background = landscape(scene.caption.ground, scene.caption.sky) / 255
    video = background + mask[..., None] * (shade[..., None] * colour - background)
    return video, mask
