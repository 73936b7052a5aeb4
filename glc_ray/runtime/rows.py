"""What goes from stage to stage of the Ray Data graph: rows of strings and numbers.

A row is one stretch of one video. A stage never raises: a video that fails goes on as a row with
its error, so that the others are rendered.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from typing import Any, TypeAlias

from glc_ray import __version__
from glc_ray.config import VideoJob, content_hash
from glc_ray.runtime.messages import Timings
from glc_ray.store.ledger import Ledger
from glc_ray.store.manifest import VideoRecord
from glc_ray.store.output import Output

Row: TypeAlias = dict[str, Any]

_VERSIONED = ("torch", "diffusers", "transformers", "ray", "numpy")


def row_of(job: VideoJob, name: str, *, priority: int = 0, line: int = 0, catalog: str = "") -> Row:
    """What enters the graph.

    Args:
        job: what to render.
        name: of its files.
        priority: higher goes first.
        line: of the catalog that asks for it; 0: of none.
        catalog: location of that.
    """
    return {
        "job": job.model_dump_json(),
        "id": video_id(job),
        "name": name,
        "priority": priority,
        "line": line,
        "catalog": catalog,
    }


def job_of(row: Row) -> VideoJob:
    """The job of a row."""
    return VideoJob.model_validate_json(row["job"])


def stretch_row(
    row: Row,
    *,
    index: int = 0,
    count: int = 1,
    segments: tuple[int, ...] = (),
    error: str = "",
    status: str = "failed",
    log: str = "",
) -> Row:
    """A row for the decoders.

    Args:
        row: of the video.
        index, count: which stretch of how many.
        segments: indices of the segments to make; none where all are there, or after an error.
        error: why the video has failed.
        status: of a video with an error: failed or cancelled.
        log: file of the actor in which it failed.
    """
    return {
        **row,
        "index": index,
        "count": count,
        "segments": json.dumps(segments),
        # Of the video's denoising, which may not have ended.
        "timings": json.dumps(asdict(Timings())),
        "error": error,
        "status": status,
        "log": log,
        "denoised_at": time.time(),
        "decoding_at": 0.0,
        "decoded_at": 0.0,
        "decode_s": 0.0,
        "encode_s": 0.0,
    }


def video_id(job: VideoJob) -> str:
    """Names a video's work folder and its manifest row."""
    return job.specification_hash[:16]


def ledger_of(output: Output, job: VideoJob) -> Ledger:
    """The segments of a job."""
    pipeline = job.pipeline
    settings = {
        # How decoders share the work changes no bit.
        "decode": pipeline.decode.model_dump(exclude={"parallel"}),
        "encode": pipeline.encode.model_dump(),
        "video": pipeline.video.model_dump(),
    }
    return Ledger(output, video_id(job), content_hash(settings))


def record_of(row: Row) -> VideoRecord:
    """The manifest row of a video that is not done (yet)."""
    job = job_of(row)
    return VideoRecord(
        id=row["id"],
        name=row["name"],
        prompt=job.prompt,
        seed=job.seed,
        specification_hash=job.specification_hash,
        specification=job.model_dump_json(),
        status="failed",
        versions=json.dumps(versions()),
        catalog=row["catalog"],
        catalog_line=row["line"],
        priority=row["priority"],
    )


def failed_record(row: Row, error: str) -> VideoRecord:
    """The manifest row of a video that failed, and of whose rows nothing is known."""
    return replace(record_of(row), error=error, finished_at=time.time())


@cache
def versions() -> dict[str, str]:
    """Versions of what computes a video."""
    return {"glc-ray": __version__} | {name: version(name) for name in _VERSIONED}
