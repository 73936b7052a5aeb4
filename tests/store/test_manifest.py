"""Several writers of one manifest."""

from __future__ import annotations

import json
import threading
from dataclasses import replace

import pytest

from glc_ray.store import manifest
from glc_ray.store.output import Output
from glc_ray.store.paths import MANIFEST
from tests.store.bucket_server import BucketServer, denied
from tests.store.test_store import RECORD


def _record(index: int, status: str = "done") -> manifest.VideoRecord:
    return replace(RECORD, id=f"{index:016x}", name=f"video-{index}", status=status)


def test_rows_of_writers_at_once(output: Output) -> None:
    def write(first: int) -> None:
        own = Output(output.location)
        for index in range(first, first + 4):
            manifest.upsert(own, _record(index, "failed"))
            manifest.upsert(own, _record(index))

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 4, 8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    rows = sorted(manifest.read(output), key=lambda row: row.id)
    assert rows == [_record(index) for index in range(12)]


def test_a_row_whose_writer_died_comes_in_with_the_next(
    s3: BucketServer, s3_output: Output
) -> None:
    manifest.upsert(s3_output, _record(0))

    def refuse_manifest(method: str, path: str) -> None:
        if method != "GET" and method != "HEAD" and MANIFEST in path:
            raise denied()

    with s3.guarded(refuse_manifest), pytest.raises(RuntimeError, match=r"parquet: cannot store"):
        manifest.upsert(s3_output, _record(1))
    assert manifest.read(s3_output) == [_record(0)]
    manifest.upsert(s3_output, _record(2))
    assert sorted(row.name for row in manifest.read(s3_output)) == ["video-0", "video-1", "video-2"]


def test_a_stale_manifest_is_mended(s3_output: Output) -> None:
    manifest.upsert(s3_output, _record(0, "failed"))
    stale = s3_output.read_bytes(MANIFEST)
    assert stale is not None
    manifest.upsert(s3_output, _record(0))
    manifest.upsert(s3_output, _record(1))
    # A writer that read before both and writes after them.
    s3_output.put_bytes(stale, MANIFEST)
    manifest.upsert(s3_output, _record(2))
    assert manifest.read(s3_output) == [_record(index) for index in range(3)]


def test_journal_keeps_the_newest_row_of_a_day(
    s3_output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest.upsert(s3_output, _record(0, "failed"))
    manifest.upsert(s3_output, _record(0))
    (row,) = s3_output.list(".work/manifest")
    assert json.loads(s3_output.read_bytes(row.path) or b"")["status"] == "done"
    monkeypatch.setattr(manifest, "_JOURNAL_S", -1)
    manifest.upsert(s3_output, _record(1))
    assert s3_output.list(".work/manifest") == []
    assert manifest.read(s3_output) == [_record(0), _record(1)]
