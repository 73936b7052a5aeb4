"""The manifest: one Parquet row a video, for people, pandas and DuckDB alike."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from glc_ray.protocols import UserError
from glc_ray.store.output import MANIFEST, Output


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
    stream = output.read(MANIFEST)
    if stream is None:
        return []
    try:
        with stream:
            rows = pq.read_table(stream).to_pylist()
        # Columns of another version are left out, or take their defaults.
        return [VideoRecord(**{n: row[n] for n in SCHEMA.names if n in row}) for row in rows]
    except (pa.ArrowException, TypeError) as error:
        raise UserError(
            f"{output.uri(MANIFEST)}: not a manifest ({error}); move it away, or give another "
            "--output"
        ) from None


def upsert(output: Output, record: VideoRecord) -> None:
    """Add a row, or replace the one with the same id; the file is never seen half written."""
    with output.locked(), tempfile.TemporaryDirectory() as folder:
        records = {row.id: row for row in read(output)} | {record.id: record}
        table = pa.Table.from_pylist([asdict(row) for row in records.values()], schema=SCHEMA)
        local = Path(folder) / MANIFEST
        pq.write_table(table, local)
        output.put(local, MANIFEST)
