"""The files behind the manifest, none of which is ever changed.

OUTPUT/.work/manifest/
    00001769000000000000.0.1f0c7a52.parquet     rows of one writer
    00001769000004000000.1.7b11e9a0.parquet     sixteen such files in one
    00001769000008000000.base.c09d3f44.parquet  everything so far; manifest.parquet is a copy of it

The manifest is all of them together, of each video the newest row. So it does not matter how often
a row is there, in which files, or who else merges meanwhile; a file may go as soon as another one
that has all its rows is stored, and no lock is needed. Where there is no base, manifest.parquet
counts as one: another version wrote it, or someone brought it here.

The first number of a name is the highest ``written_ns`` in the file.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from glc_ray.protocols import UserError
from glc_ray.store.output import Output
from glc_ray.store.parquet import open_parquet
from glc_ray.store.paths import MANIFEST, MANIFEST_PARTS
from glc_ray.store.record import SCHEMA, WRITTEN, to_schema
from glc_ray.store.scratch import scratch_folder
from glc_ray.store.storage import StorageError

BASE = "base"
_COPY_OF = b"glc_ray.part"
_NAME = re.compile(r"(\d{20})\.(\d+|base)\.[0-9a-f]{8}\.parquet")
# A row is a few kilobytes.
_BATCH_ROWS = 1024
_ROW_GROUP_ROWS = 2048
_KEY_ROWS = 1 << 16
_FEW_COLUMNS = 4
_KEY_DIGITS = 16
_NIBBLES = np.full(256, 255, np.uint8)
_NIBBLES[[ord(digit) for digit in "0123456789abcdef"]] = np.arange(16)


@dataclass(frozen=True)
class Part:
    """One of the files."""

    path: str
    """Below the output."""
    level: str
    """How often its rows were merged, or ``base``."""
    newest_ns: int
    """Highest ``written_ns`` in it; 0 where only the file itself can tell."""


class ChangedError(Exception):
    """A file has gone meanwhile: its rows are in another one."""


def parts(output: Output) -> list[Part]:
    """The files that make up the manifest, oldest first."""
    found = []
    for stored in output.list(MANIFEST_PARTS):
        match = _NAME.fullmatch(stored.path.removeprefix(f"{MANIFEST_PARTS}/"))
        if match:
            found.append(Part(stored.path, match[2], int(match[1])))
    if all(part.level != BASE for part in found) and output.size(MANIFEST) is not None:
        found.insert(0, Part(MANIFEST, BASE, 0))
    # Names sort by time; what was merged is older than what was not.
    return sorted(found, key=lambda part: (part.level != BASE, part.path))


def read_batches(
    output: Output,
    part: Part,
    columns: Sequence[str] = tuple(SCHEMA.names),
    batch_rows: int = _BATCH_ROWS,
    *,
    is_narrow: bool = False,
) -> Iterator[pa.RecordBatch]:
    """The rows of one file; ``is_narrow``: of columns that are a small part of it.

    Raises:
        ChangedError: it has gone.
        UserError: it is something else.
    """
    # Few columns are fetched at once; all of them row group by row group would be many requests.
    is_narrow = is_narrow or len(columns) <= _FEW_COLUMNS
    try:
        with _source(output, part, is_narrow or output.is_local) as source:
            file = open_parquet(source, pre_buffer=is_narrow)
            names = file.schema_arrow.names
            # Without any column, the number of rows would be lost.
            known = [name for name in columns if name in names] or ["id"]
            for batch in file.iter_batches(batch_rows, columns=known, use_threads=False):
                yield to_schema(batch, list(columns))
    except (pa.ArrowException, TypeError, ValueError, OSError, StorageError) as error:
        # A file of parts never changes, and the manifest counts only until there is a base.
        if part not in parts(output):
            raise ChangedError from None
        if isinstance(error, StorageError):
            raise
        if isinstance(error, OSError) and not output.is_local:
            raise StorageError(f"{output.uri(part.path)}: cannot read: {error}") from error
        raise UserError(
            f"{output.uri(part.path)}: not a manifest ({error}); move it away, or give another "
            "--output"
        ) from None


@contextmanager
def _source(output: Output, part: Part, in_place: bool) -> Iterator[pa.NativeFile | Path]:
    if not in_place:
        with scratch_folder() as folder:
            yield output.local_copy(part.path, Path(folder))
        return
    stream = output.read(part.path)
    if stream is None:
        raise ChangedError
    with stream:
        yield stream


@dataclass(frozen=True)
class Rows:
    """Which rows of some files are the newest of their video."""

    keys: NDArray[np.uint64]
    """Of the videos, sorted."""
    written_ns: NDArray[np.int64]
    """Of their newest rows."""
    part: NDArray[np.int32]
    """File that has it."""
    row: NDArray[np.int64]
    """Its row there."""

    def picks(self, part: int, drop: NDArray[np.uint64] | None = None) -> NDArray[np.int64]:
        """The rows of a file that count, in order, without those of the sorted keys ``drop``."""
        counts = self.part == part
        if drop is not None and len(drop):
            places = np.minimum(np.searchsorted(drop, self.keys), len(drop) - 1)
            counts &= drop[places] != self.keys
        return np.sort(self.row[counts])

    def is_same(self, other: Rows | None) -> bool:
        """Whether both show the same rows, wherever they are."""
        return (
            other is not None
            and np.array_equal(self.keys, other.keys)
            and np.array_equal(self.written_ns, other.written_ns)
        )


def newest_rows(
    output: Output, of: Sequence[Part], statuses: Collection[str] | None = None
) -> Rows:
    """Find the newest row of each video, by two or three columns alone.

    Args:
        output, of: where, and the files.
        statuses: only videos whose newest row has one of them; None takes all.

    Raises:
        ChangedError: a file has gone.
    """
    keys, written, places, rows, wanted = [], [], [], [], []
    columns = ("id", WRITTEN) if statuses is None else ("id", WRITTEN, "status")
    for index, part in enumerate(of):
        count = 0
        for batch in read_batches(output, part, columns, _KEY_ROWS):
            keys.append(keys_of(batch.column("id")))
            written.append(batch.column(WRITTEN).to_numpy())
            places.append(np.full(len(batch), index, np.int32))
            rows.append(np.arange(count, count + len(batch)))
            count += len(batch)
            if statuses is not None:
                has_one = pc.is_in(batch.column("status"), pa.array(statuses, pa.string()))
                wanted.append(has_one.to_numpy(zero_copy_only=False))
    if not keys:
        none = np.empty(0, np.int64)
        return Rows(none.astype(np.uint64), none, none.astype(np.int32), none)
    key, ns = np.concatenate(keys), np.concatenate(written)
    order = np.lexsort((ns, key))
    is_last = np.append(key[order][1:] != key[order][:-1], True)
    winners = order[is_last]
    if wanted:
        winners = winners[np.concatenate(wanted)[winners]]
    return Rows(
        key[winners], ns[winners], np.concatenate(places)[winners], np.concatenate(rows)[winners]
    )


def picked(batches: Iterator[pa.RecordBatch], picks: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
    """The rows of a file that ``picks``, sorted, names."""
    start = 0
    for batch in batches:
        first, last = np.searchsorted(picks, (start, start + len(batch)))
        if last - first == len(batch):
            yield batch
        elif last > first:
            yield batch.take(pa.array(picks[first:last] - start))
        start += len(batch)


def keys_of(ids: pa.Array) -> NDArray[np.uint64]:
    """Ids as integers: their 16 hex digits, or of any other text a hash."""
    try:
        fixed = ids.cast(pa.binary()).cast(pa.binary(_KEY_DIGITS))
        digits = _NIBBLES[np.frombuffer(fixed.buffers()[1], np.uint8)].reshape(-1, _KEY_DIGITS)
        digits = digits[fixed.offset : fixed.offset + len(fixed)]
    except pa.ArrowInvalid:
        digits = None
    if digits is None or (digits > 15).any():
        return np.array([_key_of(text) for text in ids.to_pylist()], np.uint64)
    pairs = (digits[:, ::2] << 4) | digits[:, 1::2]
    return np.ascontiguousarray(pairs).view(">u8").ravel().astype(np.uint64)


def merge(output: Output, of: Sequence[Part], level: str, rows: Rows) -> None:
    """Put the rows of some files that count into a new file, and remove those.

    Args:
        output: where the manifest is.
        of: the files; all there are, if it is to be a base.
        level: of the new file. A base is published as manifest.parquet, too.
        rows: of theirs, those that count.

    Raises:
        ChangedError: one of them has gone.
        StorageError: it cannot be stored; nothing is removed.
    """
    batches = (
        batch
        for index, part in enumerate(of)
        for batch in picked(read_batches(output, part), rows.picks(index))
    )
    write_part(output, batches, level, int(rows.written_ns.max(initial=0)))
    for part in of:
        if part.path != MANIFEST:
            output.delete(part.path)


def write_part(
    output: Output, batches: Iterable[pa.RecordBatch], level: str, newest_ns: int
) -> None:
    """Store rows as a new file. A base is published as manifest.parquet, too."""
    path = f"{MANIFEST_PARTS}/{newest_ns:020d}.{level}.{uuid.uuid4().hex[:8]}.parquet"
    with output.writing(MANIFEST if level == BASE else path) as local:
        _write_parquet(local, batches, path)
        if level == BASE:
            # First, for when there is a base, manifest.parquet does not count.
            output.put(local, path)


def published(output: Output) -> str:
    """Path of the base that manifest.parquet is a copy of; empty where it is of none."""
    stream = output.read(MANIFEST)
    if stream is None:
        return ""
    with stream:
        try:
            metadata = pq.read_metadata(stream).metadata or {}
        except (pa.ArrowException, OSError):
            return ""
    return str(metadata.get(_COPY_OF, b"").decode())


def _write_parquet(local: Path, batches: Iterable[pa.RecordBatch], path: str) -> None:
    # Statistics of a specification would be two specifications in each row group's entry.
    with pq.ParquetWriter(
        local, SCHEMA, compression="zstd", write_statistics=["id", "status", WRITTEN]
    ) as writer:
        waiting: list[pa.RecordBatch] = []
        for batch in batches:
            waiting.append(batch)
            if sum(map(len, waiting)) >= _ROW_GROUP_ROWS:
                writer.write_table(pa.Table.from_batches(waiting, SCHEMA))
                waiting = []
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting, SCHEMA))
        writer.add_key_value_metadata({_COPY_OF.decode(): path})


def _key_of(text: str) -> int:
    if re.fullmatch(f"[0-9a-f]{{{_KEY_DIGITS}}}", text):
        return int(text, 16)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
