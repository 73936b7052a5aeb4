"""The laws by which objects of the embedded model's world move, and how well a path fits one.

Lengths are pixels, y grows downwards, times are frames, angles radians.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np

from glc_ray.evaluation.toyworld.looks import HEIGHT, WIDTH

# Frames of one cycle, fastest to slowest. The fastest moves six pixels a frame, so that half an
# object at most passes within a latent frame; the factor of three makes a dilated clip familiar.
PERIODS = {
    "bounces": (20, 60),
    "rolls": (40, 120),
    "floats": (28, 84),
    "swings": (36, 108),
    "circles": (32, 96),
}
MOTIONS = tuple(PERIODS)
LEAST_REACH = 0.7
RADII = (12.0, 15.5)
"""Smallest and largest size of an object."""
DRIFT_PERIODS = 3.7
"""Periods that one cycle of the slow sideways drift takes."""
_DRIFTING = ("bounces", "floats")
_SLACK = 1.25
"""Factor by which a fitted period may leave the range."""
_NUM_PERIODS, _NUM_PHASES, _NUM_REACHES = 40, 60, 5


def path_of(
    motion: str, radius: float, turn: np.ndarray, drift_turn: np.ndarray, reach: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Centre x and y of an object at angle `turn` of its cycle, all arrays broadcast together.

    `drift_turn` is the angle of the slow drift, `reach` the share of the motion's full extent.
    Raises ValueError for an unknown motion.
    """
    middle_x, floor_y = WIDTH / 2, HEIGHT - 6.0 - radius
    match motion:
        case "bounces":
            height = np.abs(np.sin(turn / 2)) * (floor_y - radius - 3) * reach
            return middle_x + 24 * np.sin(drift_turn), floor_y - height
        case "rolls":
            return middle_x + 32 * reach * np.sin(turn), floor_y + 0 * turn
        case "floats":
            return middle_x + 28 * np.sin(drift_turn), 26 + 7 * reach * np.sin(turn)
        case "swings":
            angle = 0.75 * reach * np.sin(turn)
            return middle_x + 46 * np.sin(angle), -8 + 46 * np.cos(angle)
        case "circles":
            return middle_x + 28 * reach * np.cos(turn), 32 + 14 * reach * np.sin(turn)
    raise ValueError(f"unknown motion {motion!r}")


@dataclass(frozen=True)
class Fit:
    """The law's path nearest to a given one: its distance (RMS, pixels) and period (frames)."""

    distance: float
    period: float


def fit_motion(motion: str, radius: float, centres: np.ndarray) -> Fit:
    """Fit period, phases and reach of a law to centres (F, 2); frames that are NaN are left out.

    A search over a grid: 4% from one period to the next, 6 degrees from one phase to the next.
    """
    known = np.isfinite(centres).all(1)
    frames = np.flatnonzero(known)
    if not len(frames):
        return Fit(np.inf, np.nan)
    x, y = centres[known].T
    fastest, slowest = PERIODS[motion]
    periods = np.geomspace(fastest / _SLACK, slowest * _SLACK, _NUM_PERIODS)
    phases = np.linspace(0, 2 * np.pi, _NUM_PHASES, endpoint=False)
    turn = 2 * np.pi * frames / periods[:, None, None] + phases[:, None]
    reaches = np.linspace(LEAST_REACH, 1.0, _NUM_REACHES)[:, None]
    law_x, law_y = path_of(motion, radius, turn[:, :, None], np.zeros(()), reaches)
    errors = np.square(law_y - y).mean(-1)
    if motion in _DRIFTING:
        drift = 2 * np.pi * frames / (DRIFT_PERIODS * periods[:, None, None]) + phases[:, None]
        drift_x, _ = path_of(motion, radius, np.zeros(()), drift, np.ones(()))
        sideways = np.square(drift_x - x).mean(-1).min(1)
    else:
        errors, sideways = errors + np.square(law_x - x).mean(-1), 0.0
    by_period = errors.min((1, 2)) + sideways
    best = int(by_period.argmin())
    return Fit(float(np.sqrt(by_period[best])), float(periods[best]))


@cache
def mean_speed(motion: str) -> float:
    """Pixels a frame that an object moves on average, over all periods and reaches of a law."""
    periods = np.geomspace(*PERIODS[motion], 9)[:, None, None]
    reaches = np.linspace(LEAST_REACH, 1.0, 5)[:, None]
    turn = 2 * np.pi * np.arange(2000) / periods
    x, y = path_of(motion, sum(RADII) / 2, turn, turn / DRIFT_PERIODS, reaches)
    return float(np.hypot(np.diff(x), np.diff(y)).mean())


def steps_of(centres: np.ndarray) -> np.ndarray:
    """Distances in pixels between centres (F, 2) of neighbouring frames that have one."""
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1)
    return steps[np.isfinite(steps)]


def largest_step(centres: np.ndarray) -> float:
    """Largest distance in pixels between centres (F, 2) of neighbouring frames that have one."""
    return float(steps_of(centres).max(initial=0.0))
