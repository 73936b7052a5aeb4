"""Totals over the manifest that are read again and again: only files that are new are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from glc_ray.store.manifest_parts import ChangedError, Part, keys_of, parts, read_batches
from glc_ray.store.output import Output
from glc_ray.store.paths import MANIFEST
from glc_ray.store.record import OUTDATED, WRITTEN

SUMS = (
    "num_frames",
    "size_bytes",
    "prompt_s",
    "denoise_s",
    "fuse_s",
    "update_s",
    "forward_s",
    "decode_s",
    "encode_s",
)
"""Columns that are summed."""
_COLUMNS = ("id", WRITTEN, "status", "name", *SUMS)
_BATCH_ROWS = 1 << 16


@dataclass(frozen=True)
class Totals:
    """Of the newest row of each video."""

    statuses: dict[str, int]
    """How many videos, by status."""
    sums: dict[str, float]
    """Of ``SUMS``, over all of them; frames and bytes of those that are done."""


@dataclass(frozen=True)
class _Rows:
    """What one file says; a few dozen bytes a row."""

    keys: NDArray[np.uint64]
    written_ns: NDArray[np.int64]
    status: NDArray[np.str_]
    names: NDArray[np.uint64]
    """Hashes of them."""
    sums: NDArray[np.float64]
    """(rows, columns)."""


class ManifestTotals:
    """Reads the manifest of ``output`` as it grows.

    Its files never change, so each is read once, and of it narrow columns; where none is new, a
    look is one listing. Memory is some hundred bytes a video.

    Raises:
        UserError: a file of the manifest is something else.
        StorageError: storage cannot be read.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._files: dict[Part, _Rows] = {}
        self._newest = _joined([])
        self.num_read = 0
        """Rows read so far."""

    def look(self, without: Collection[str] = ()) -> Totals:
        """Where it stands now, but for the videos that are called one of ``without``."""
        self._read_new()
        rows = self._newest
        names = np.array([_hash(name) for name in without], np.uint64)
        counts = ~np.isin(rows.names, names)
        is_true = rows.status != OUTDATED
        status, sums = rows.status[counts], rows.sums[counts]
        done = status == "done"
        # What a video took counts however it ended, what came of it only if it is there.
        totals = np.where([_is_made(name) for name in SUMS], sums[done].sum(0), sums.sum(0))
        return Totals(
            statuses=dict(Counter(rows.status[counts & is_true].tolist())),
            sums=dict(zip(SUMS, totals.tolist(), strict=True)),
        )

    def _read_new(self) -> None:
        # A manifest.parquet without a base is somebody else's, and may change.
        known = {part: rows for part, rows in self._files.items() if part.path != MANIFEST}
        while known.keys() != set(of := parts(self._output)):
            try:
                self._files = {part: known.get(part) or self._read(part) for part in of}
            except ChangedError:
                # Merged meanwhile.
                continue
            self._newest = _newest(_joined(list(self._files.values())))
            return

    def _read(self, part: Part) -> _Rows:
        batches = []
        for batch in read_batches(self._output, part, _COLUMNS, _BATCH_ROWS, is_narrow=True):
            columns = [batch.column(name).to_numpy() for name in SUMS]
            batches.append(
                _Rows(
                    keys=keys_of(batch.column("id")),
                    written_ns=batch.column(WRITTEN).to_numpy(),
                    status=np.array(batch.column("status").to_pylist(), np.str_),
                    names=np.array(
                        [_hash(name) for name in batch.column("name").to_pylist()], np.uint64
                    ),
                    sums=np.stack(columns, axis=1).astype(np.float64),
                )
            )
            self.num_read += len(batch)
        return _joined(batches)


def _joined(rows: list[_Rows]) -> _Rows:
    if not rows:
        none = np.empty(0, np.uint64)
        return _Rows(
            none, none.astype(np.int64), none.astype(np.str_), none, np.empty((0, len(SUMS)))
        )
    return _Rows(
        *(np.concatenate([getattr(one, name) for one in rows]) for name in _Rows.__annotations__)
    )


def _newest(rows: _Rows) -> _Rows:
    """The newest row of each video."""
    order = np.lexsort((rows.written_ns, rows.keys))
    keys = rows.keys[order]
    chosen = order[np.append(keys[1:] != keys[:-1], True)] if len(keys) else order
    return _Rows(*(getattr(rows, name)[chosen] for name in _Rows.__annotations__))


def _is_made(column: str) -> bool:
    return column in ("num_frames", "size_bytes")


def _hash(name: str) -> int:
    """Within this process."""
    return hash(name) & (1 << 64) - 1
