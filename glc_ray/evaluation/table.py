"""The scores of many videos as a table: one row a video and score, and a few lines for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pyarrow as pa
import pyarrow.parquet as pq

from glc_ray.evaluation.scoring import Video
from glc_ray.plain_text import plain

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("prompt", pa.string()),
        ("score", pa.string()),
        ("value", pa.float64()),
    ]
)
_ROWS = 10_000


@dataclass(frozen=True)
class Row:
    """A score of a video."""

    video: Video
    score: str
    value: float


def write_table(rows: Iterable[Row], path: Path) -> None:
    """Write Parquet, in memory for some thousands of rows."""
    with pq.ParquetWriter(path, SCHEMA, compression="zstd") as writer:
        for batch in _batches(rows):
            writer.write_batch(batch)


def lines(rows: Sequence[Row]) -> list[str]:
    """Mean of each score over videos, and the videos with the lowest and the highest."""
    by_score: dict[str, list[Row]] = {}
    for row in rows:
        by_score.setdefault(row.score, []).append(row)
    width = max(map(len, by_score), default=0)
    shown = [f"{'score':<{width}}  {'mean':>10}  videos  lowest, highest"]
    for score, of in by_score.items():
        low, high = (pick(of, key=lambda row: row.value) for pick in (min, max))
        ends = f"{_number(low.value)} {_short(low)}"
        if len(of) > 1:
            ends += f", {_number(high.value)} {_short(high)}"
        mean = fmean(row.value for row in of)
        shown.append(f"{score:<{width}}  {_number(mean):>10}  {len(of):>6}  {ends}")
    return shown


def _batches(rows: Iterable[Row]) -> Iterator[pa.RecordBatch]:
    columns: list[list[object]] = [[] for _ in SCHEMA]
    for row in rows:
        video = row.video
        values = (video.id, video.name, video.prompt, row.score, row.value)
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        if len(columns[0]) >= _ROWS:
            yield pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=SCHEMA)
            columns = [[] for _ in SCHEMA]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    yield pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _number(value: float) -> str:
    return f"{value:.5g}"


def _short(row: Row) -> str:
    name = plain(row.video.name or row.video.id)
    return name if len(name) <= 40 else f"{name[:39]}…"
