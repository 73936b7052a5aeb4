"""Many rows, several writers and readers of one manifest, and some that are killed."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glc_ray.protocols import UserError
from glc_ray.store import manifest, manifest_parts
from glc_ray.store.manifest import ManifestWriter, VideoRecord
from glc_ray.store.output import Output
from glc_ray.store.paths import MANIFEST, MANIFEST_PARTS
from tests.store.bucket_server import BucketServer, denied
from tests.store.test_store import RECORD


def _record(index: int, status: str = "done") -> VideoRecord:
    key = f"{index * 0x9E3779B97F4A7C15 % 2**64:016x}"
    return replace(RECORD, id=key, name=f"video-{index:05d}", status=status)


def _published(output: Output) -> list[VideoRecord]:
    """As others than this project read it."""
    table = pq.read_table(pa.BufferReader(output.read_bytes(MANIFEST))).drop_columns("written_ns")
    return [VideoRecord(**row) for row in table.to_pylist()]


def _parts(output: Output) -> list[str]:
    return [stored.path for stored in output.list(MANIFEST_PARTS)]


@pytest.fixture
def local_output(tmp_path: Path) -> Output:
    return Output(str(tmp_path / "out"))


def test_a_writer_adds_and_replaces(output: Output) -> None:
    with ManifestWriter(output, flush_rows=3) as writer:
        for index in range(8):
            writer.add(_record(index, "failed"))
        assert [row.name for row in manifest.read(output)] == [f"video-{i:05d}" for i in range(6)]
        writer.add(_record(2))
        writer.flush()
        assert manifest.read(output)[2] == _record(2)
        assert len(manifest.read(output)) == 8
    expected = [_record(index, "done" if index == 2 else "failed") for index in range(8)]
    assert manifest.read(output) == expected
    assert sorted(_published(output), key=lambda row: row.name) == expected
    # One file behind the manifest, which is a copy of it.
    (base,) = _parts(output)
    assert output.read_bytes(base) == output.read_bytes(MANIFEST)


def test_all_columns_come_back(local_output: Output) -> None:
    record = replace(
        RECORD, catalog_line=7, priority=-3, resumed_at_step=12, halved_batches=2, finished_at=1.5
    )
    manifest.upsert(local_output, record)
    assert manifest.read(local_output) == [record]


def test_ids_of_statuses(output: Output) -> None:
    assert manifest.ids(output).tolist() == []
    with ManifestWriter(output, flush_rows=4) as writer:
        for index in range(10):
            writer.add(_record(index, "failed" if index % 3 else "done"))
        # The newest row alone counts.
        writer.add(_record(0, "cancelled"))
        writer.add(_record(1))
        writer.flush()
        keys = [int(_record(index).id, 16) for index in (1, 3, 6, 9)]
        found = manifest.ids(output)
        assert (found.dtype, found.tolist()) == (np.uint64, sorted(keys))
    assert manifest.ids(output).tolist() == sorted(keys)
    assert manifest.ids(output, {"cancelled"}).tolist() == [int(_record(0).id, 16)]
    assert len(manifest.ids(output, {"done", "failed"})) == 9


def test_ids_of_any_text_are_told_apart(local_output: Output) -> None:
    names = ["", "0", "0" * 16, "0" * 15 + "g", "ABCDEF0123456789", "é" * 8, "0" * 32]
    with ManifestWriter(local_output) as writer:
        for name in names:
            writer.add(replace(RECORD, id=name))
    assert {row.id for row in manifest.read(local_output)} == set(names)
    assert 0 in manifest.ids(local_output)


def test_columns(local_output: Output) -> None:
    with ManifestWriter(local_output, flush_rows=2) as writer:
        for index in range(5):
            writer.add(_record(index))
        writer.flush()
        batches = list(manifest.iter_batches(local_output, ["status", "name"]))
        assert {tuple(batch.schema.names) for batch in batches} == {("status", "name")}
        names = sorted(name for batch in batches for name in batch["name"].to_pylist())
        assert names == [f"video-{index:05d}" for index in range(5)]
        assert next(manifest.iter_batches(local_output)).schema.equals(manifest.SCHEMA)
    with pytest.raises(ValueError, match=r"no columns \['colour'\]"):
        next(manifest.iter_batches(local_output, ["colour"]))


def test_a_manifest_of_an_older_version_is_added_to(output: Output, tmp_path: Path) -> None:
    older = [asdict(_record(index, "failed")) for index in range(3)]
    for row in older:
        for name in ("catalog_line", "priority", "resumed_at_step", "halved_batches"):
            del row[name]
        del row["finished_at"]
    pq.write_table(pa.Table.from_pylist(older), tmp_path / "older.parquet")
    output.put(tmp_path / "older.parquet", MANIFEST)
    lines = [batch["catalog_line"].to_pylist() for batch in manifest.iter_batches(output)]
    assert lines == [[0, 0, 0]]
    assert [b.num_rows for b in manifest.iter_batches(output, ["catalog_line"])] == [3]
    manifest.upsert(output, _record(1))
    expected = [_record(0, "failed"), _record(1), _record(2, "failed")]
    assert manifest.read(output) == expected
    assert sorted(_published(output), key=lambda row: row.name) == expected


def test_the_manifest_alone_is_enough(local_output: Output) -> None:
    manifest.upsert(local_output, _record(0))
    local_output.delete(".work")
    assert manifest.read(local_output) == [_record(0)]
    # A clock that went back does not bring the older row forth.
    manifest.upsert(local_output, _record(0, "failed"))
    manifest.upsert(local_output, _record(1))
    assert manifest.read(local_output) == [_record(0, "failed"), _record(1)]


def test_a_clock_that_is_behind(local_output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest.upsert(local_output, _record(0, "failed"))
    monkeypatch.setattr(manifest.time, "time_ns", lambda: 1)
    manifest.upsert(local_output, _record(0))
    assert manifest.read(local_output) == [_record(0)]
    local_output.delete(".work")
    manifest.upsert(local_output, _record(0, "cancelled"))
    assert manifest.read(local_output) == [_record(0, "cancelled")]


def test_a_lost_copy_is_made_again(local_output: Output) -> None:
    manifest.upsert(local_output, _record(0))
    local_output.put_bytes(b"not parquet", MANIFEST)
    assert manifest.read(local_output) == [_record(0)]
    manifest.compact(local_output)
    assert _published(local_output) == [_record(0)]
    local_output.delete(MANIFEST)
    manifest.compact(local_output)
    assert _published(local_output) == [_record(0)]


def test_a_damaged_part(local_output: Output) -> None:
    with ManifestWriter(local_output) as writer:
        writer.add(_record(0))
        writer.flush()
        (path,) = _parts(local_output)
        local_output.put_bytes(b"PAR1", path)
        with pytest.raises(UserError, match=rf"{path}: not a manifest \(.*; move it away, or give"):
            manifest.read(local_output)
        local_output.delete(path)


def test_files_stay_few(local_output: Output) -> None:
    most = 0
    with ManifestWriter(local_output, flush_rows=1) as writer:
        for index in range(280):
            writer.add(_record(index % 200, "done" if index >= 200 else "failed"))
            most = max(most, len(_parts(local_output)))
        assert {path.split(".")[2] for path in _parts(local_output)} == {"0", "1", "2"}
        assert len(manifest.read(local_output)) == 200
    assert most < 3 * 16
    assert len(_parts(local_output)) == 1
    assert len(manifest.ids(local_output)) == 80


def test_it_is_merged_now_and_then(local_output: Output) -> None:
    with ManifestWriter(local_output, flush_rows=1, compact_s=0) as writer:
        writer.add(_record(0))
        assert _published(local_output) == [_record(0)]


def test_rows_of_writers_at_once(output: Output) -> None:
    def write(first: int) -> None:
        own = Output(output.location)
        for index in range(first, first + 2):
            manifest.upsert(own, _record(index, "failed"))
            manifest.upsert(own, _record(index))

    writers = [threading.Thread(target=write, args=(first,)) for first in (0, 2, 4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    expected = [_record(index) for index in range(6)]
    assert manifest.read(output) == expected
    manifest.compact(output)
    assert sorted(_published(output), key=lambda row: row.name) == expected


class _Interrupted(Output):
    """An output where something else happens before a file is read, stored or removed."""

    def __init__(self, location: str, happens: Callable[[], None]) -> None:
        super().__init__(location)
        self._happens = happens

    def read(self, path: str) -> pa.NativeFile | None:
        self._happens()
        return super().read(path)

    def delete(self, path: str) -> None:
        self._happens()
        super().delete(path)

    def put(self, local: Path, path: str) -> int:
        self._happens()
        return super().put(local, path)

    def _rename(self, source: Path, path: str) -> None:
        self._happens()
        super()._rename(source, path)


class _Killed(BaseException):
    pass


class _Writers:
    """Writers that write and merge in the midst of each other; some are killed."""

    def __init__(self, output: Output, rng: random.Random, *, deadly: bool) -> None:
        self._output, self._rng, self._deadly = output, rng, deadly
        self._started = self._depth = 0
        self.stored: dict[str, int] = {}
        """Of each video the newest row that a flush returned for."""

    def run(self) -> None:
        self._depth += 1
        with suppress(_Killed):
            self._write(_Interrupted(self._output.location, self._happens))
        self._depth -= 1
        self.nothing_is_lost(manifest.read(self._output))

    def nothing_is_lost(self, found: list[VideoRecord]) -> None:
        seeds = {row.id: row.seed for row in found}
        assert len(seeds) == len(found)
        # A newer one may be there, of a writer that was killed after it was stored.
        assert all(seeds[key] >= seed for key, seed in self.stored.items())

    def _write(self, output: Output) -> None:
        self._started += 1
        record = replace(_record(self._rng.randrange(6)), seed=self._started)
        writer = ManifestWriter(output)
        writer.add(record)
        writer.flush()
        self.stored[record.id] = max(record.seed, self.stored.get(record.id, 0))
        if self._rng.random() < 0.7:
            writer.close()

    def _happens(self) -> None:
        if self._deadly and self._rng.random() < 0.03:
            raise _Killed
        if self._depth < 3 and self._rng.random() < 0.15:
            self.run()


@given(seed=st.integers(0, 2**32 - 1), deadly=st.booleans())
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_interleaving_of_writers_loses_nothing(
    tmp_path_factory: pytest.TempPathFactory, seed: int, deadly: bool
) -> None:
    output = Output(str(tmp_path_factory.mktemp("out")))
    writers = _Writers(output, random.Random(seed), deadly=deadly)  # noqa: S311
    for _ in range(3):
        writers.run()
    manifest.compact(output)
    writers.nothing_is_lost(_published(output))


def test_a_reader_in_the_midst_of_merges(local_output: Output) -> None:
    writer = ManifestWriter(local_output)
    for index in range(3):
        for number in range(2):
            writer.add(_record(3 * number + index))
        writer.flush()
    found = []
    reads = iter(range(100))

    def merge() -> None:
        if next(reads) in (1, 5):
            manifest.compact(local_output)

    for batch in manifest.iter_batches(_Interrupted(local_output.location, merge), ["name"]):
        found += batch["name"].to_pylist()
        # All that is not given out yet is moved under the reader's feet.
        writer.add(_record(len(found)))
        writer.close()
    assert sorted(found) == [f"video-{index:05d}" for index in range(6)]


def test_a_row_is_there_though_the_manifest_cannot_be_written(
    s3: BucketServer, s3_output: Output
) -> None:
    manifest.upsert(s3_output, _record(0))

    def refuse_manifest(method: str, path: str) -> None:
        if method not in ("GET", "HEAD") and MANIFEST in path:
            raise denied()

    with s3.guarded(refuse_manifest), pytest.raises(RuntimeError, match=r"parquet: cannot store"):
        manifest.upsert(s3_output, _record(1))
    assert manifest.read(s3_output) == [_record(0), _record(1)]
    assert _published(s3_output) == [_record(0)]
    manifest.upsert(s3_output, _record(2))
    assert len(_published(s3_output)) == len(manifest.read(s3_output)) == 3


def test_rows_that_could_not_be_stored_are_stored_later(
    s3: BucketServer, s3_output: Output
) -> None:
    def refuse(method: str, path: str) -> None:
        if method in ("PUT", "POST"):
            raise denied()

    writer = ManifestWriter(s3_output)
    writer.add(_record(0))
    with s3.guarded(refuse), pytest.raises(RuntimeError, match="cannot store"):
        writer.flush()
    writer.add(_record(1))
    writer.close()
    assert manifest.read(s3_output) == [_record(0), _record(1)]


def test_a_stale_manifest_is_mended(s3_output: Output) -> None:
    manifest.upsert(s3_output, _record(0, "failed"))
    stale = s3_output.read_bytes(MANIFEST)
    assert stale is not None
    manifest.upsert(s3_output, _record(0))
    manifest.upsert(s3_output, _record(1))
    # Of a writer that was held up between reading and writing.
    s3_output.put_bytes(stale, MANIFEST)
    assert manifest.read(s3_output) == [_record(0), _record(1)]
    manifest.compact(s3_output)
    assert _published(s3_output) == [_record(0), _record(1)]


# Two forks at a time add rows, tell which were flushed, and are killed at some moment. The process
# that forks uses nothing of Arrow, whose threads a fork would not have.
_KILLED_WRITERS = """
import os, random, signal, sys, time
from glc_ray.store import manifest
from glc_ray.store.manifest import ManifestWriter, VideoRecord
from glc_ray.store.output import Output

def forked(work):
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return pid

def write(tell, number, attempt):
    output = Output(sys.argv[1])
    with ManifestWriter(output, flush_rows=10**9, compact_s=0.002) as writer:
        for seed in range(1000 * attempt, 1000 * attempt + 1000):
            writer.add(VideoRecord(f"{number:08x}{seed % 3:08x}", "", "", seed, "", "", "done"))
            writer.flush()
            os.write(tell, seed.to_bytes(4, "little"))

def check():
    found = {row.id: row.seed for row in manifest.read(Output(sys.argv[1]))}
    if not all(found[key] >= seed for key, seed in flushed.items()):
        print(found, flushed, file=sys.stderr, flush=True)
        os._exit(1)

rng = random.Random(0)
flushed = {}
for attempt in range(1, 6):
    pipes = [os.pipe() for _ in range(2)]
    writers = [forked(lambda: write(pipes[n][1], n, attempt)) for n in range(2)]
    told = []
    for number, (reading, writing) in enumerate(pipes):
        os.close(writing)
        told.append((number, os.read(reading, 4)))
    time.sleep(rng.random() * 0.1)
    for writer in writers:
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
    for number in range(2):
        while more := os.read(pipes[number][0], 4):
            told.append((number, more))
    for number, seed in told:
        seed = int.from_bytes(seed, "little")
        key = f"{number:08x}{seed % 3:08x}"
        flushed[key] = max(seed, flushed.get(key, 0))
    assert os.waitpid(forked(check), 0)[1] == 0
print(len(flushed))
"""


def test_killed_writers_lose_nothing_that_was_flushed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED_WRITERS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    output = Output(str(tmp_path))
    manifest.compact(output)
    assert len(_published(output)) == len(manifest.read(output)) >= int(done.stdout) >= 2


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(0, 20), st.booleans())
def test_keys_are_the_ids_digits(keys: list[int], start: int, is_odd: bool) -> None:
    texts = [f"{key:016x}" for key in keys] + ["odd"] * is_odd
    found = manifest_parts.keys_of(pa.array(texts, pa.string())[start:])
    assert found.dtype == np.uint64
    assert found.tolist()[: len(keys[start:])] == keys[start:]


def test_a_bad_row_of_a_catalog() -> None:
    row = manifest.invalid_record("s3://a/b.csv", 7, "no prompt", name="seven")
    assert (row.status, row.error, row.catalog_line) == ("invalid", "no prompt", 7)
    assert row.id == manifest.invalid_record("s3://a/b.csv", 7, "another").id
    others = [("s3://a/b.csv", 8), ("s3://a/c.csv", 7), ("s3://a/b.csv7", 7)]
    ids = {manifest.invalid_record(*other, "no prompt").id for other in others}
    assert len(ids | {row.id}) == 4
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in ids)
