"""The scores by name, and what each kind of them needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

from glc_ray.evaluation.scores.frames import ChangeScores
from glc_ray.evaluation.scores.measure import Facts, Score
from glc_ray.evaluation.scores.sharpness import Sharpness
from glc_ray.evaluation.scores.smoothness import BlendSmoothness, InterpolatedSmoothness
from glc_ray.evaluation.scores.truth import NAMES, ToyworldTruth
from glc_ray.protocols import UserError

Make = Callable[[Facts], Score]
"""Begins the scores of a video."""


@dataclass(frozen=True)
class Kind:
    """Scores that are computed together."""

    names: tuple[str, ...]
    load: Callable[[], Make]
    """Loads what they need, once for all videos; raises UserError where a package is missing."""
    is_default: bool = True


def _blocks() -> Make:
    from glc_ray.evaluation.scores.blocks import BlockMotion

    return BlockMotion


def _consistency() -> Make:
    from glc_ray.evaluation.scores.consistency import Consistency, EfficientNetLite

    return partial(Consistency, EfficientNetLite())


def _cuts() -> Make:
    from glc_ray.evaluation.scores.cuts import HardCuts, TransNet

    return partial(HardCuts, TransNet())


def _rife() -> Make:
    from glc_ray.evaluation.scores.rife import Rife

    network = Rife()
    return lambda facts: InterpolatedSmoothness(network)


KINDS = {
    "change": Kind(("temporal_flickering", "seam", "drift"), lambda: ChangeScores),
    "sharpness": Kind(("sharpness",), lambda: Sharpness),
    "smoothness": Kind(("motion_smoothness_blend",), lambda: BlendSmoothness),
    "motion": Kind(("motion_blocks", "dynamic_degree_blocks"), _blocks),
    "consistency": Kind(
        (
            "subject_consistency_efficientnet",
            "background_consistency_efficientnet",
            "drift_efficientnet",
        ),
        _consistency,
    ),
    "cuts": Kind(("hard_cuts_transnet",), _cuts),
    "rife": Kind(("motion_smoothness_rife",), _rife, is_default=False),
    "toyworld": Kind(
        tuple(f"toyworld.{name}" for name in NAMES), lambda: ToyworldTruth, is_default=False
    ),
}
DEFAULT = tuple(name for name, kind in KINDS.items() if kind.is_default)


def chosen(words: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Names of the scores that are wanted by kind, in the order of ``KINDS``.

    Args:
        words: of kinds or of scores.

    Raises:
        UserError: one is neither.
    """
    wanted: dict[str, set[str]] = {}
    for word in words:
        kinds = [kind for kind, of in KINDS.items() if word == kind or word in of.names]
        if not kinds:
            raise _unknown(word)
        for kind in kinds:
            names = KINDS[kind].names
            wanted.setdefault(kind, set()).update([word] if word in names else names)
    return {
        kind: tuple(name for name in of.names if name in wanted[kind])
        for kind, of in KINDS.items()
        if kind in wanted
    }


def _unknown(word: str) -> UserError:
    known = [*KINDS, *(name for kind in KINDS.values() for name in kind.names)]
    near = get_close_matches(word, known, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return UserError(
        f"--scores {word}: no such score{hint}; kinds are {', '.join(KINDS)}, and "
        "vbench.DIMENSION is of VBench itself; `glc-ray evaluate --help` lists their scores"
    )
