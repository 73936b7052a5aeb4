"""Rows of the manifest that are true no more, since a catalog was changed.

A row that failed, was cancelled or was invalid, and that its catalog does not have any more; and a
video whose name another one has now, with its files. Such a row is replaced by one that says so,
keeps what the video took, and is seen only by who reads manifest.parquet without this package.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from glc_ray.names import name_key
from glc_ray.store import manifest
from glc_ray.store.manifest_parts import keys_of
from glc_ray.store.output import Output
from glc_ray.store.record import VideoRecord, outdated_record
from glc_ray.store.totals import SUMS

_COLUMNS = ("id", "name", "status", "finished_at", "catalog", *SUMS)
_LEFT = "not in the catalog any more"
_TAKEN = "another specification has its name, and its files"

_Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """What a run is asked for, in 16 bytes a video."""

    catalog: str | None
    """Location of the catalog that asks for all of it; None: nothing is known of others."""
    videos: NDArray[np.uint64]
    """Their ids as numbers, sorted."""
    names: NDArray[np.uint64]
    """``name_key`` of their names, sorted."""
    invalid: set[str] = field(default_factory=set)
    """Ids of the catalog's rows that are no videos."""

    def is_left(self, row: _Row) -> bool:
        """Whether a row that is not done, and is not of ``videos``, has no catalog any more."""
        if row["status"] == "invalid":
            return row["catalog"] == self.catalog and row["id"] not in self.invalid
        return (
            row["catalog"] == self.catalog or _find(self.names, name_key(row["name"])) is not None
        )


class Names:
    """Which finished videos have names that are asked for, for others.

    16 bytes for each video of the run that is done, and some hundred for each that has its name.

    Args:
        output: whose manifest is read, once.
        asked: of the run.
    """

    def __init__(self, output: Output, asked: Asked) -> None:
        self._output, self._asked = output, asked
        self._others: dict[int, _Row] = {}

    def outdated(self) -> Iterator[VideoRecord]:
        """Rows in place of those that are true no more; to be taken to their end.

        Raises:
            UserError, StorageError: as of ``manifest.read``.
        """
        keys: list[int] = []
        ended: list[float] = []
        for batch in manifest.iter_batches(self._output, _COLUMNS):
            is_asked = np.isin(keys_of(batch.column("id")), self._asked.videos)
            done = batch.filter(pc.and_(pa.array(is_asked), pc.equal(batch["status"], "done")))
            keys += map(name_key, done["name"].to_pylist())
            ended += done["finished_at"].to_pylist()
            for row in batch.filter(pa.array(~is_asked)).to_pylist():
                if row["status"] == "done":
                    yield from self._compare(row)
                elif self._asked.is_left(row):
                    yield _in_place_of(row, _LEFT)
        order = np.argsort(np.array(keys, np.uint64))
        sorted_keys = np.array(keys, np.uint64)[order]
        for key, row in list(self._others.items()):
            place = _find(sorted_keys, key)
            # The run that rendered it was killed before it said so.
            if place is not None and ended[order[place]] >= row["finished_at"]:
                yield self._give_up(key)

    def replaced(self, record: VideoRecord) -> VideoRecord | None:
        """A row in place of the one whose files a finished video has replaced, if there is one."""
        key = name_key(record.name)
        other = self._others.get(key)
        if record.status != "done" or other is None or other["id"] == record.id:
            return None
        return self._give_up(key)

    def _compare(self, row: _Row) -> Iterator[VideoRecord]:
        """Of finished videos of one name the last has its files."""
        key = name_key(row["name"])
        if _find(self._asked.names, key) is None:
            return
        other = self._others.setdefault(key, row)
        if other is not row:
            first, last = sorted((other, row), key=lambda one: one["finished_at"])
            self._others[key] = last
            yield _in_place_of(first, _TAKEN)

    def _give_up(self, key: int) -> VideoRecord:
        return _in_place_of(self._others.pop(key), _TAKEN)


def _in_place_of(row: _Row, why: str) -> VideoRecord:
    record = outdated_record(row["id"], row["name"], why)
    return replace(record, catalog=row["catalog"], **{column: row[column] for column in SUMS})


def _find(sorted_keys: NDArray[np.uint64], key: int) -> int | None:
    place = int(np.searchsorted(sorted_keys, np.uint64(key)))
    return place if place < len(sorted_keys) and int(sorted_keys[place]) == key else None
