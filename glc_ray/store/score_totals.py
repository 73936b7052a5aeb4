"""What the scores of an output come to, read again and again: only where they changed."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from glc_ray.store.output import Output
from glc_ray.store.parquet import open_parquet
from glc_ray.store.paths import EVALUATION
from glc_ray.store.storage import StoredFile

_LOG = logging.getLogger(__name__)
_SHARE_BEYOND = 0.05
"""Of the videos, that lie below ``low``, and above ``high``."""


@dataclass(frozen=True)
class ScoreTotal:
    """A score over the videos that have it."""

    score: str
    num_videos: int
    mean: float
    low: float
    high: float


class ScoreTotals:
    """Reads ``scores.parquet`` of ``output``, which each evaluation writes anew.

    Raises:
        StorageError: storage cannot be read.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._seen: StoredFile | None = None
        self._totals: tuple[ScoreTotal, ...] = ()

    def look(self) -> tuple[ScoreTotal, ...]:
        """By name; none where nothing was evaluated, or the file is something else."""
        stored = self._output.stored(EVALUATION)
        if stored != self._seen:
            self._totals = self._read() if stored else ()
            self._seen = stored
        return self._totals

    def _read(self) -> tuple[ScoreTotal, ...]:
        data = self._output.read_bytes(EVALUATION)
        if data is None:
            return ()
        try:
            table = open_parquet(pa.BufferReader(data)).read(["score", "value"])
            return _totals(table.cast(pa.schema([("score", pa.string()), ("value", pa.float64())])))
        except (pa.ArrowException, ValueError, OSError) as error:
            _LOG.warning("%s holds no scores: %s", self._output.uri(EVALUATION), error)
            return ()


def _totals(table: pa.Table) -> tuple[ScoreTotal, ...]:
    ends = pc.TDigestOptions([_SHARE_BEYOND, 1 - _SHARE_BEYOND])
    grouped = (
        table.filter(pc.is_finite(table["value"]))
        .drop_null()
        .group_by("score")
        .aggregate([("value", "count"), ("value", "mean"), ("value", "tdigest", ends)])
        .sort_by("score")
    )
    return tuple(
        ScoreTotal(row["score"], row["value_count"], row["value_mean"], *row["value_tdigest"])
        for row in grouped.to_pylist()
    )
