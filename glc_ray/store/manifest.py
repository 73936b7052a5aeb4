"""The manifest: one Parquet row a video, for people, pandas and DuckDB alike.

Rows are stored in part files (``manifest_parts``), so that a row costs the same among a million as
among ten, and merged into ``manifest.parquet`` now and then and at the end. Any number of processes
may write and read at once.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from glc_ray.store.manifest_parts import (
    BASE,
    ChangedError,
    merge,
    newest_rows,
    parts,
    picked,
    published,
    read_batches,
    write_part,
)
from glc_ray.store.output import Output
from glc_ray.store.paths import MANIFEST, MANIFEST_PARTS
from glc_ray.store.record import SCHEMA, STATUSES, WRITTEN, VideoRecord, invalid_record

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "ManifestWriter",
    "VideoRecord",
    "compact",
    "ids",
    "invalid_record",
    "iter_batches",
    "read",
    "upsert",
]

_COLUMNS = [field.name for field in fields(VideoRecord)]
_MERGED_PARTS = 16
_SMALL_BYTES = 2 << 20
"""Of about 20,000 rows: 10,000 are 1.1 MiB, and merged in 0.2 s of CPU."""
_WRITER_BITS = 16
# Of the time, merging everything takes at most this share.
_COMPACT_SHARE = 0.02


class ManifestWriter:
    """Adds rows; a row replaces the video's older one. For one thread.

    A writer that is killed loses at most the rows that were not flushed.

    Args:
        output: where the manifest is.
        flush_rows: rows after which ``add`` stores what was added.
        flush_s: seconds after which ``add`` does; who adds nothing for long calls ``flush``.
        compact_s: least seconds from one merge into manifest.parquet to the next; more where it
            takes more than a small share of the time.

    Raises:
        StorageError: storage cannot be read or written. Rows that a ``flush`` could not store are
            stored by the next.
    """

    def __init__(
        self,
        output: Output,
        *,
        flush_rows: int = 1000,
        flush_s: float = 5.0,
        compact_s: float = 60.0,
    ) -> None:
        self._output = output
        self._flush_rows, self._flush_s, self._compact_s = flush_rows, flush_s, compact_s
        self._writer = secrets.randbits(_WRITER_BITS)
        # Also where another machine's clock is ahead, a row is newer than those before it.
        self._newest_ns = _newest_ns(output)
        self._rows: list[tuple[VideoRecord, int]] = []
        self._oldest_s = 0.0
        self._num_parts = 0
        self._next_compact_s = time.monotonic() + compact_s

    def __enter__(self) -> ManifestWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or self._is_small():
            self.close()
        else:
            # Whoever is stopped has seconds. What is not merged is read all the same.
            self.flush()

    def add(self, record: VideoRecord) -> None:
        """Add a row; it is stored when ``flush`` has returned."""
        if not self._rows:
            self._oldest_s = time.monotonic()
        self._rows.append((record, self._now_ns()))
        waited_s = time.monotonic() - self._oldest_s
        if len(self._rows) >= self._flush_rows or waited_s >= self._flush_s:
            self.flush()

    def flush(self) -> None:
        """Store the rows that were added."""
        if not self._rows:
            return
        write_part(self._output, [_batch(self._rows)], "0", self._rows[-1][1])
        self._rows = []
        self._num_parts += 1
        if time.monotonic() >= self._next_compact_s:
            start = time.monotonic()
            _try_to_compact(self._output)
            now = time.monotonic()
            pause_s = max(self._compact_s, (now - start) / _COMPACT_SHARE)
            self._next_compact_s = now + pause_s
        elif self._num_parts % _MERGED_PARTS == 0:
            _merge_levels(self._output)

    def close(self) -> None:
        """Store the rows that were added, and merge all into manifest.parquet."""
        self.flush()
        compact(self._output)

    def _is_small(self) -> bool:
        """Whether all rows are merged in a fraction of a second."""
        return sum(file.size for file in self._output.list(MANIFEST_PARTS)) <= _SMALL_BYTES

    def _now_ns(self) -> int:
        """Greater than all before; its last bits are this writer's."""
        least = (self._newest_ns >> _WRITER_BITS) + 1
        self._newest_ns = max(time.time_ns() >> _WRITER_BITS, least) << _WRITER_BITS | self._writer
        return self._newest_ns


def upsert(output: Output, record: VideoRecord) -> None:
    """Add a row, or replace the one with the same id.

    Raises:
        StorageError: it cannot be stored.
    """
    with ManifestWriter(output) as writer:
        writer.add(record)


def read(output: Output) -> list[VideoRecord]:
    """All rows by line of the catalog, name and id, for outputs of some thousands of videos.

    Raises:
        UserError: a file of the manifest is something else.
        StorageError: storage cannot be read.
    """
    rows: list[dict[str, Any]] = []
    for batch in iter_batches(output, _COLUMNS):
        rows += batch.to_pylist()
    records = [VideoRecord(**row) for row in rows]
    return sorted(records, key=lambda record: (record.catalog_line, record.name, record.id))


def find(output: Output, video_id: str) -> VideoRecord | None:
    """The row of one video, or None."""
    for batch in iter_batches(output, _COLUMNS):
        for row in batch.filter(pc.equal(batch.column("id"), video_id)).to_pylist():
            return VideoRecord(**row)
    return None


def iter_batches(output: Output, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The rows, a few thousand at a time, of each video one, about in the order of writing; without
    those that are outdated.

    Args:
        output: where the manifest is.
        columns: of ``SCHEMA``; all by default.

    Raises:
        ValueError: there is no such column.
        UserError, StorageError: as ``read``.
    """
    names = list(SCHEMA.names if columns is None else columns)
    if unknown := set(names) - set(SCHEMA.names):
        raise ValueError(f"the manifest has no columns {sorted(unknown)}")
    given = np.empty(0, np.uint64)
    while True:
        of = parts(output)
        index, count = 0, 0
        try:
            rows = newest_rows(output, of, STATUSES)
            for index, part in enumerate(of):
                picks, count = rows.picks(index, given), 0
                for batch in picked(read_batches(output, part, names), picks):
                    count += len(batch)
                    yield batch
            return
        except ChangedError:
            # Go on with the files that have the rest.
            if index or count:
                is_given = rows.part < index
                if count:
                    is_given |= (rows.part == index) & (rows.row <= picks[count - 1])
                given = np.union1d(given, rows.keys[is_given])


def ids(output: Output, statuses: Collection[str] = ("done",)) -> NDArray[np.uint64]:
    """Which videos have one of these statuses: their ids' 16 hex digits as integers, sorted.

    Raises:
        UserError, StorageError: as ``read``.
    """
    while True:
        try:
            return newest_rows(output, parts(output), statuses).keys
        except ChangedError:
            continue


def compact(output: Output) -> None:
    """Merge all rows that there are into manifest.parquet.

    Raises:
        UserError, StorageError: as ``read``; or it cannot be stored, then nothing is lost.
    """
    done = None
    while True:
        of = parts(output)
        bases = [part.path for part in of if part.level == BASE]
        # Another that merges at the same time leaves a base of its own, or publishes an older one.
        is_published = bases in ([MANIFEST], [published(output)])
        if not of or (is_published and (done is not None or len(of) == 1)):
            return
        try:
            rows = newest_rows(output, of)
            if rows.is_same(done):
                return
            merge(output, of, BASE, rows)
            done = rows
        except ChangedError:
            continue


def _try_to_compact(output: Output) -> None:
    """As ``compact``, unless another does so at the same time."""
    with suppress(ChangedError):
        of = parts(output)
        merge(output, of, BASE, newest_rows(output, of))


def _merge_levels(output: Output) -> None:
    """Keep the number of files small: many of a level become one of the next."""
    levels: dict[str, list[Any]] = {}
    for part in parts(output):
        levels.setdefault(part.level, []).append(part)
    for level, of in levels.items():
        if level == BASE or len(of) < _MERGED_PARTS:
            continue
        try:
            merge(output, of, str(int(level) + 1), newest_rows(output, of))
        except ChangedError:
            continue


def _newest_ns(output: Output) -> int:
    newest = 0
    for part in parts(output):
        newest = max(newest, part.newest_ns)
        if part.path == MANIFEST:
            try:
                for batch in read_batches(output, part, (WRITTEN,)):
                    newest = max(newest, *batch.column(WRITTEN).to_pylist())
            except ChangedError:
                return _newest_ns(output)
    return newest


def _batch(rows: Sequence[tuple[VideoRecord, int]]) -> pa.RecordBatch:
    columns = [[getattr(record, name) for record, _ in rows] for name in _COLUMNS]
    arrays = [
        pa.array(values, kind)
        for values, kind in zip([*columns, [ns for _, ns in rows]], SCHEMA.types, strict=True)
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
