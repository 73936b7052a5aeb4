"""What a row of the manifest holds."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import MISSING, dataclass, fields
from typing import Any

import pyarrow as pa

OUTDATED = "outdated"
STATUSES = ("done", "failed", "cancelled", "invalid")
"""Of rows that are true."""


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
    """done, failed, cancelled, invalid (a row of a catalog that is no video), or outdated: a row
    that is true no more, which readers of ``manifest`` do not see."""
    num_frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    size_bytes: int = 0
    path: str = ""
    """Of the video, below the output."""
    contact_sheet: str = ""
    preview: str = ""
    """Six of its pictures without text."""
    scores: str = ""
    """Change and drift of every frame, as JSON."""
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
    """Why it failed, or is invalid."""
    catalog_line: int = 0
    """Line of the catalog that asks for it, from 1; 0: not from a catalog."""
    catalog: str = ""
    """Its location."""
    priority: int = 0
    """Higher went first."""
    resumed_at_step: int = 0
    """Step that its last attempt began with; 0: from the start."""
    halved_batches: int = 0
    """Forwards whose batch was halved for want of device memory: it may change the last bits."""
    queued_at: float = 0.0
    """When the run began that rendered it, in seconds since 1970, as all of these; 0: never."""
    started_at: float = 0.0
    """When a coordinator took it."""
    denoised_at: float = 0.0
    """When its latents were stored."""
    decoding_at: float = 0.0
    """When the first of its decoders began; that may be in its last denoising step."""
    decoded_at: float = 0.0
    """When the last of its segments was stored; then they are joined."""
    log: str = ""
    """Where the actor in which it failed tells more, HOST:PATH."""
    finished_at: float = 0.0
    """When it came to this status, in seconds since 1970."""

    @property
    def failure(self) -> str:
        """Its name, why it failed and, in a line of its own, which log tells more."""
        log = f"\nlog: {self.log}" if self.log else ""
        return f"{self.name}: {self.error}{log}"


def invalid_record(
    location: str, line: int, error: str, *, name: str = "", prompt: str = ""
) -> VideoRecord:
    """The row of a catalog row that is no video; the same line of a catalog has the same id.

    Args:
        location: of the catalog.
        line: from 1.
        error: what is wrong with it.
        name, prompt: as far as it has them.
    """
    digest = hashlib.sha256(json.dumps(["invalid", location, line]).encode()).hexdigest()
    return VideoRecord(
        id=digest[:16],
        name=name,
        prompt=prompt,
        seed=0,
        specification_hash="",
        specification="",
        status="invalid",
        error=error,
        catalog=location,
        catalog_line=line,
        finished_at=time.time(),
    )


def outdated_record(id: str, name: str, why: str) -> VideoRecord:
    """The row that takes the place of one that is true no more."""
    return VideoRecord(
        id=id,
        name=name,
        prompt="",
        seed=0,
        specification_hash="",
        specification="",
        status=OUTDATED,
        error=why,
        finished_at=time.time(),
    )


WRITTEN = "written_ns"
"""The column that tells which of several rows of a video is the newest: nanoseconds since 1970, of
which the last 16 bits are its writer's, so that no two are equal."""

_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64()}
SCHEMA = pa.schema(
    [*((field.name, _TYPES[str(field.type)]) for field in fields(VideoRecord)), (WRITTEN, "int64")]
)
"""Of the manifest: a record and when it was written."""

_DEFAULTS: dict[str, Any] = {
    field.name: field.default for field in fields(VideoRecord) if field.default is not MISSING
} | {WRITTEN: 0}


def to_schema(batch: pa.RecordBatch, columns: list[str]) -> pa.RecordBatch:
    """``columns`` of a batch that another version wrote: missing ones take their defaults.

    Raises:
        TypeError: one that has no default is missing, or one has empty cells.
    """
    arrays = []
    for name in columns:
        kind = SCHEMA.field(name).type
        if name in batch.schema.names:
            array = batch.column(name).cast(kind)
            if array.null_count:
                raise TypeError(f"its column {name} has empty cells")
            arrays.append(array)
        elif name in _DEFAULTS:
            arrays.append(pa.repeat(pa.scalar(_DEFAULTS[name], kind), len(batch)))
        else:
            raise TypeError(f"it has no column {name}")
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema([SCHEMA.field(n) for n in columns]))
