"""Stages that fill a queue: rows as they are read -> videos as they are checked, batch by batch."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from glc_ray.backbones.registry import facts
from glc_ray.catalog import CatalogJob, CatalogJobs
from glc_ray.config import ModelSpec, VideoJob
from glc_ray.job import unknown_words
from glc_ray.names import name_key
from glc_ray.protocols import ModelFacts, UserError
from glc_ray.store.catalog import BadRow, CatalogRow, read_rows

_BATCH_ROWS = 1000
_LONGEST = 4000
"""Characters of what is told of an invalid row."""

READ = pa.schema([("line", pa.int64()), ("values", pa.string()), ("error", pa.string())])
"""A row as it is read: values as JSON, or an error. At line 0 it is one of the whole file."""

QUEUED, DONE, INVALID, FATAL = "queued", "done", "invalid", "fatal"
CHECKED = pa.schema(
    [
        ("state", pa.string()),
        ("line", pa.int64()),
        ("job", pa.string()),
        ("name", pa.string()),
        ("priority", pa.int64()),
        ("id", pa.string()),
        ("group", pa.string()),
        ("key", pa.uint64()),
        ("name_key", pa.uint64()),
        ("prompt", pa.string()),
        ("unknown", pa.string()),
        ("error", pa.string()),
    ]
)
"""A video as it is checked: ``key`` is its id as a number, ``name_key`` a digest of its name,
``unknown`` are words of its prompt that its model has never seen. What is done has no job; what is
invalid has an error, and name and prompt as far as it has them."""


def read_batches(location: str, jobs: CatalogJobs) -> Iterator[pa.Table]:
    """The rows of a catalog as they are read; the whole file's mistake is the last of them."""
    rows = read_rows(location, jobs.check_columns)
    while True:
        batch: list[dict[str, Any]] = []
        mistake = ""
        try:
            batch.extend(map(_read_row, islice(rows, _BATCH_ROWS)))
        except UserError as error:
            # One that is raised here would come out as Ray Data's.
            mistake = str(error)
        if mistake:
            batch.append({"line": 0, "values": "", "error": mistake})
        if batch:
            yield pa.Table.from_pylist(batch, schema=READ)
        if mistake or not batch:
            return


def _read_row(row: CatalogRow | BadRow) -> dict[str, Any]:
    if isinstance(row, BadRow):
        return {"line": row.line, "values": "", "error": row.error}
    # Dates and decimals of Parquet are no values of a specification, which will say so.
    return {"line": row.line, "values": json.dumps(row.values, default=str), "error": ""}


class CheckRows:
    """Makes the videos of rows, and looks which of them are done.

    Args:
        jobs: makes them.
        done: reference to the sorted ids of those that are done, in a list; empty: none is.
        folder: that relative paths in rows start from.
    """

    def __init__(self, jobs: CatalogJobs, done: list[Any], folder: str) -> None:
        os.chdir(folder)
        self._jobs = jobs
        self._facts: dict[ModelSpec, ModelFacts] = {}
        self._done = ray.get(done[0]) if done else np.empty(0, np.uint64)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """From `READ` to `CHECKED`."""
        checked = [video for row in batch.to_pylist() for video in self._check(row)]
        return pa.Table.from_pylist(checked, schema=CHECKED)

    def _check(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        line, error, values = row["line"], row["error"], {}
        if not error:
            values = json.loads(row["values"])
            try:
                yield from map(self._video, self._jobs.jobs(CatalogRow(line, values)))
                return
            except UserError as mistake:
                error = str(mistake)
        yield _NOTHING | {
            "state": INVALID if line else FATAL,
            "line": line,
            # Of however long a value in it.
            "error": error if len(error) <= _LONGEST else f"{error[:_LONGEST]} ...",
            "name": _if_text(values.get("name")),
            "prompt": _if_text(values.get("prompt")),
        }

    def _video(self, made: CatalogJob) -> dict[str, Any]:
        id = made.job.specification_hash[:16]
        is_done = self._is_done(int(id, 16))
        return {
            "state": DONE if is_done else QUEUED,
            "line": made.line,
            "job": "" if is_done else made.job.model_dump_json(),
            "name": made.name,
            "priority": made.priority,
            "id": id,
            "group": made.group,
            "key": int(id, 16),
            "name_key": name_key(made.name),
            "prompt": made.job.prompt,
            "unknown": "" if is_done else self._unknown(made.job),
            "error": "",
        }

    def _unknown(self, job: VideoJob) -> str:
        """Words that the job's model has never seen, with spaces between them."""
        model = job.pipeline.model
        if model not in self._facts:
            self._facts[model] = facts(model)
        text = " ".join(prompt.text for prompt in job.timeline)
        return " ".join(unknown_words(text, self._facts[model]))

    def _is_done(self, key: int) -> bool:
        place = int(np.searchsorted(self._done, np.uint64(key)))
        return place < len(self._done) and int(self._done[place]) == key


_NOTHING: dict[str, Any] = {
    field.name: 0 if pa.types.is_integer(field.type) else "" for field in CHECKED
}


def _if_text(value: Any) -> str:
    return value[:_LONGEST] if isinstance(value, str) else ""
