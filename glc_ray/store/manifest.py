"""The manifest: one Parquet row a video, for people, pandas and DuckDB alike."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, fields

import pyarrow as pa
import pyarrow.parquet as pq

from glc_ray.protocols import UserError
from glc_ray.store.output import Output
from glc_ray.store.paths import MANIFEST


@dataclass(frozen=True)
class VideoRecord:
    """What became of one video."""

    id: str
    """Specification hash, first 16 hex digits: unique in a manifest."""
    name: str
    prompt: str
    """What it shows; of a timeline all of it in one line."""
    seed: int
    specification_hash: str
    specification: str
    """The whole specification as JSON: enough to render the video again."""
    status: str
    """done or failed."""
    num_frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    size_bytes: int = 0
    path: str = ""
    """Of the video, below the output."""
    contact_sheet: str = ""
    prompt_s: float = 0.0
    """Waiting for a denoiser and encoding the prompt."""
    denoise_s: float = 0.0
    """Waiting for predictions."""
    fuse_s: float = 0.0
    """Fusion and scheduler steps."""
    update_s: float = 0.0
    """Motion consistency refinement."""
    forward_s: float = 0.0
    """Model forwards, summed over workers."""
    num_windows: int = 0
    """Window forwards."""
    anchor_forwards: int = 0
    """Forwards of anchors beyond their own windows' (ABAM)."""
    decode_s: float = 0.0
    encode_s: float = 0.0
    total_s: float = 0.0
    """From the coordinator's start to the stored file, waiting for models included."""
    versions: str = ""
    """Of the libraries that computed it, as JSON."""
    error: str = ""
    """Why it failed."""


_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
SCHEMA = pa.schema([(field.name, _TYPES[str(field.type)]) for field in fields(VideoRecord)])


def read(output: Output) -> list[VideoRecord]:
    """The rows of an output's manifest; none where there is no manifest yet.

    Raises:
        UserError: the file is something else.
    """
    data = output.read_bytes(MANIFEST)
    if data is None:
        return []
    try:
        rows = pq.read_table(pa.BufferReader(data)).to_pylist()
        # Columns of another version are left out, or take their defaults.
        return [VideoRecord(**{n: row[n] for n in SCHEMA.names if n in row}) for row in rows]
    except (pa.ArrowException, TypeError) as error:
        raise UserError(
            f"{output.uri(MANIFEST)}: not a manifest ({error}); move it away, or give another "
            "--output"
        ) from None


def upsert(output: Output, record: VideoRecord) -> None:
    """Add a row, or replace the one with the same id; the file is never seen half written.

    Two writers at once: on local storage a lock keeps those of one machine apart (and those of
    several, where the file system locks for all). In an object store, where the last writer of a
    file wins, each row is first put as a file of its own, and the manifest is written again until
    no row was added meanwhile; so that it has all rows when all writers are through, and a row
    whose writer died in between comes in with the next one.

    Raises:
        StorageError: it cannot be stored.
    """
    if output.is_local:
        with output.locked():
            _write(output, _rows(output) | {record.id: record})
        return
    output.put_bytes(_to_json(record), f"{_JOURNAL}/{_journal_name(record)}")
    while True:
        journal = _newest(output)
        _write(output, _with_journal(output, _rows(output), journal))
        if _newest(output) == journal:
            break
    _prune(output, journal)


_JOURNAL = ".work/manifest"
# Long after any writer that read the manifest without these rows has written it.
_JOURNAL_S = 24 * 3600


def _rows(output: Output) -> dict[str, VideoRecord]:
    return {row.id: row for row in read(output)}


def _write(output: Output, records: dict[str, VideoRecord]) -> None:
    table = pa.Table.from_pylist([asdict(row) for row in records.values()], schema=SCHEMA)
    with output.writing(MANIFEST) as local:
        pq.write_table(table, local)


def _to_json(record: VideoRecord) -> bytes:
    return json.dumps(asdict(record), sort_keys=True).encode()


def _digest(record: VideoRecord) -> str:
    return hashlib.sha256(_to_json(record)).hexdigest()[:16]


def _journal_name(record: VideoRecord) -> str:
    return f"{record.id}.{time.time_ns():020d}.{_digest(record)}.json"


def _newest(output: Output) -> dict[str, str]:
    """Name of the newest row in the journal, by id."""
    names = (stored.path.rpartition("/")[2] for stored in output.list(_JOURNAL))
    # Names sort by time within an id.
    return {name.partition(".")[0]: name for name in sorted(names)}


def _with_journal(
    output: Output, records: dict[str, VideoRecord], journal: dict[str, str]
) -> dict[str, VideoRecord]:
    merged = dict(records)
    for key, name in journal.items():
        if key in records and _digest(records[key]) == name.split(".")[2]:
            continue
        data = output.read_bytes(f"{_JOURNAL}/{name}")
        # Another writer has replaced it; its newer one is in the next listing.
        if data is not None:
            merged[key] = VideoRecord(**json.loads(data))
    return merged


def _prune(output: Output, journal: dict[str, str]) -> None:
    for stored in output.list(_JOURNAL):
        name = stored.path.rpartition("/")[2]
        key, written_ns, *_ = name.split(".")
        is_replaced = name < journal.get(key, "")
        if is_replaced or int(written_ns) / 1e9 < time.time() - _JOURNAL_S:
            output.delete(stored.path)
