"""Scores and cost of single videos, which comparisons are made of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.util import find_spec
from typing import TypeAlias

import pyarrow as pa

from glc_ray.comparison.design import Cell
from glc_ray.evaluation.evaluating import evaluate_one, names_of
from glc_ray.evaluation.evaluation_file import add_evaluation, read_evaluation
from glc_ray.evaluation.scoring import Evaluator
from glc_ray.evaluation.videos import output_videos
from glc_ray.protocols import UserError
from glc_ray.store.output import Output
from glc_ray.store.record import VideoRecord

_LOG = logging.getLogger(__name__)

Tell: TypeAlias = Callable[[str], None]
"""Is told what is being done, in a line."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("method", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("num_frames", pa.int64()),
        ("score", pa.string()),
        ("value", pa.float64()),
    ]
)
"""Of the long form: a row a video and score."""


class Scorer:
    """Scores the finished videos of an output; what `glc-ray evaluate` found is not sought again,
    and the other way round.

    Args:
        words: of scores, as of ``evaluate``.
        anew: score also what is scored already.

    Raises:
        UserError: there is no such score, or a package is missing: before anything is rendered.
    """

    def __init__(self, words: Iterable[str], *, anew: bool = False) -> None:
        words = tuple(words)
        if find_spec("av") is None:
            raise UserError(
                "comparing reads videos, which needs PyAV (package av): pip install "
                "'glc-ray[evaluate]'"
            )
        self._words, self._names, self._anew = words, names_of(words), anew
        # What is missing shows now; networks do not stay in memory while videos are rendered.
        Evaluator(words)

    def scores(self, place: Output, ids: set[str], tell: Tell) -> dict[str, Mapping[str, float]]:
        """Values by score of each video of ``ids`` that is finished and can be read.

        Args:
            place: the output.
            ids: of videos.
            tell: is told of each that is read.

        Raises:
            StorageError: the output cannot be read or written.
        """
        found: dict[str, Mapping[str, float]] = {}
        evaluator: Evaluator | None = None
        videos = [video for video in output_videos(place) if video.id in ids]
        for number, video in enumerate(videos, start=1):
            file = read_evaluation(place, video.name, video.finished_at)
            if self._anew or file is None or not file.has(self._names):
                tell(f"[{number}/{len(videos)}] {video.name}: scoring")
                evaluator = evaluator or Evaluator(self._words)
                done = evaluate_one(evaluator, video, self._names)
                if done.file is None:
                    _LOG.warning("%s: left out of the comparison: %s", video.name, done.error)
                    continue
                # At once: who is interrupted goes on from here.
                file = add_evaluation(place, video.name, done.file)
            found[video.id] = {
                name: value for name, value in file.values.items() if name in self._names
            }
        return found


def long_form(
    cells: Iterable[Cell],
    records: Mapping[str, VideoRecord],
    scores: Mapping[str, Mapping[str, float]],
) -> pa.Table:
    """Scores and cost of the videos of a comparison, a row a video and score.

    Args:
        cells: the videos.
        records: of those that are finished, by id.
        scores: of those that are scored, by id.
    """
    found = (
        (cell.id, cell.name, cell.variant.name, cell.case.prompt, cell.case.seed,
         cell.case.num_frames, score, value)
        for cell in cells
        if cell.id in scores
        for score, value in {**scores[cell.id], **_cost(records[cell.id])}.items()
    )  # fmt: skip
    return _table(found)


def _table(rows: Iterator[tuple[object, ...]]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(SCHEMA)
    return pa.table(
        [pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)],
        schema=SCHEMA,
    )


def _cost(record: VideoRecord) -> dict[str, float]:
    """Nothing of a video whose latents came from elsewhere: nobody counted what they took."""
    if record.num_windows == 0:
        return {}
    return {
        "forwards": float(record.num_windows + record.anchor_forwards),
        "forward_s": record.forward_s,
        "denoise_s": record.denoise_s,
    }
