"""Judge clips of values in [0, 1] by the rules of `glc_ray.evaluation.toyworld`."""

import numpy as np
import world

from glc_ray.evaluation.toyworld import rules

KINDS = ("colour", "shape", "motion", "ground", "sky")


def to_frames(video: np.ndarray) -> np.ndarray:
    """A clip (F, H, W, 3) with values in [0, 1] as uint8."""
    return (video.clip(0, 1) * 255).round().astype(np.uint8)


def right_words(video: np.ndarray, caption: world.Caption) -> dict[str, bool]:
    """For each kind of word, whether the clip shows what the caption says."""
    verdict = rules.judge(to_frames(video))
    return {kind: getattr(verdict, kind) == getattr(caption, kind) for kind in KINDS}
