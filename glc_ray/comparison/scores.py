"""What the scores of a comparison say, and which way is better."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

Group: TypeAlias = Literal["truth", "score", "cost"]

GROUPS: Mapping[Group, str] = {
    "truth": "True scores of the embedded model's world",
    "score": "Built-in scores",
    "cost": "Cost",
}
"""What the tables are called that scores are shown in."""


@dataclass(frozen=True)
class Score:
    """What a number says."""

    name: str
    better: int
    """1 where more of it is better, -1 where less is, 0 where it is neither."""
    meaning: str
    digits: int = 3
    group: Group = "score"


SCORES = (
    Score("toyworld.present", 1, "share of frames that show an object", group="truth"),
    Score("toyworld.colour", 1, "share of frames with the prompt's colour", group="truth"),
    Score("toyworld.shape", 1, "share of frames with the prompt's shape", group="truth"),
    Score("toyworld.motion", 1, "share of spans that follow the prompt's motion", group="truth"),
    Score("toyworld.speed", 0, "mean speed of the object, 1 is the world's mean", 2, "truth"),
    Score("toyworld.longest_step", -1, "largest jump of the object, pixels", 1, "truth"),
    Score("toyworld.background_change", -1, "largest change of the landscape, RGB", 1, "truth"),
    Score("temporal_flickering", 1, "VBench's formula: 1 where nothing moves", 4),
    Score("motion_smoothness_blend", 1, "how well frames follow from their neighbours", 4),
    Score("motion_smoothness_rife", 1, "the same, by a network", 4),
    Score("subject_consistency_efficientnet", 1, "likeness to the first frame and the one before"),
    Score("background_consistency_efficientnet", 1, "the same, along the edges of the picture"),
    Score("drift", -1, "how far the end is from the beginning, in colours and edges"),
    Score("drift_efficientnet", -1, "how far later frames are from the beginning, in features"),
    Score("seam", -1, "change at borders that every step has, by change elsewhere", 2),
    Score("hard_cuts_transnet", -1, "cuts that a network sees", 2),
    Score("sharpness", 1, "variance of the Laplacian: detail, and noise, too", 0),
    Score("motion_blocks", 0, "pixels that blocks move by", 1),
    Score("dynamic_degree_blocks", 0, "share of videos that move", 2),
    Score("forwards", 0, "model forwards of a window, anchors' included", 0, "cost"),
    # No verdict on seconds: they are of what else the machine did, and methods run in turns.
    Score("forward_s", 0, "seconds of model forwards, summed over workers", 1, "cost"),
    Score("denoise_s", 0, "seconds of waiting for them", 1, "cost"),
)
_BY_NAME = {score.name: score for score in SCORES}
_PLACES = {score.name: place for place, score in enumerate(SCORES)}
COST = tuple(score.name for score in SCORES if score.group == "cost")


def score_of(name: str) -> Score:
    """What is known of a score; of one that is not known here no way is better."""
    return _BY_NAME.get(name) or Score(name, 0, "")


def in_order(names: set[str]) -> list[Score]:
    """Scores as tables show them; those that are not known here between the others and the cost."""
    first_cost = _PLACES[COST[0]]
    return [
        score_of(name)
        for name in sorted(names, key=lambda n: (_PLACES.get(n, first_cost - 0.5), n))
    ]
