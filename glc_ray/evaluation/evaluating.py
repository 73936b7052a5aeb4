"""Evaluating one video after another, for whoever stores what comes out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from glc_ray.evaluation.evaluation_file import EvaluationFile, evaluation_file
from glc_ray.evaluation.scores.registry import chosen
from glc_ray.evaluation.scoring import Evaluator, Video
from glc_ray.media.read import UnreadableError
from glc_ray.store.storage import StorageError


@dataclass(frozen=True)
class Done:
    """What became of one video."""

    video: Video
    file: EvaluationFile | None
    """None where it could not be read."""
    error: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Of work by kind of score, and ``reading``."""


def names_of(words: Iterable[str]) -> tuple[str, ...]:
    """Names of the scores that some words stand for; see ``chosen``."""
    return tuple(name for names in chosen(words).values() for name in names)


def evaluate_one(evaluator: Evaluator, video: Video, names: Sequence[str]) -> Done:
    """A video that cannot be read is no exception here: others are evaluated after it."""
    try:
        found = evaluator.evaluate(video)
    except (UnreadableError, StorageError) as error:
        return Done(video, None, str(error))
    file = evaluation_file(video, found).with_scores(names, found.scores)
    return Done(video, file, seconds=found.seconds)


def evaluated(videos: Sequence[Video], words: Sequence[str]) -> Iterator[Done]:
    """Evaluate videos in this process, in order.

    Raises:
        UserError: as ``Evaluator``.
    """
    evaluator, names = Evaluator(words), names_of(words)
    for video in videos:
        yield evaluate_one(evaluator, video, names)
