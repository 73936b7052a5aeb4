"""Joins at once, with joins that wait for each other."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glc_ray.config import VideoJob
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.assembly import Assembly
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.joins import joined
from glc_ray.runtime.rows import Row, failed_record, row_of, stretch_row
from glc_ray.store.record import VideoRecord


class _Gated(Assembly):
    """Joins nothing: every record waits until it may be made."""

    def __init__(self, output: Path, plans: FilePlans) -> None:
        super().__init__(str(output), plans, keep_latents=False)
        self.gates = {name: threading.Event() for name in "abcd"}
        self.begun: list[str] = []

    def record(self, rows: list[Row]) -> VideoRecord:
        name = rows[0]["name"]
        self.begun.append(name)
        assert self.gates[name].wait(60)
        return failed_record(rows[0], f"{len(rows)} rows")


@pytest.fixture
def assembly(tiny_pipeline: Path, tmp_path: Path) -> _Gated:
    return _Gated(tmp_path, FilePlans(load_pipeline(str(tiny_pipeline))))


def stretch(pipeline: Path, name: str, index: int = 0, count: int = 1) -> Row:
    job = VideoJob(prompt=name, pipeline=load_pipeline(str(pipeline)))
    return stretch_row(row_of(job, name), index=index, count=count)


def test_a_slow_join_holds_back_no_other_record_and_no_row(
    assembly: _Gated, tiny_pipeline: Path
) -> None:
    def rows() -> Iterator[Row]:
        yield stretch(tiny_pipeline, "a")
        yield stretch(tiny_pipeline, "b", 0, 2)
        yield stretch(tiny_pipeline, "c")
        yield stretch(tiny_pipeline, "b", 1, 2)

    assembly.gates["b"].set()
    assembly.gates["c"].set()
    records = joined(rows(), assembly, at_once=2)
    early = {record.name: record.error for record in (next(records), next(records))}
    assert early == {"b": "2 rows", "c": "1 rows"}
    assembly.gates["a"].set()
    assert [record.name for record in records] == ["a"]


def test_as_many_joins_as_there_is_room_for(assembly: _Gated, tiny_pipeline: Path) -> None:
    taken = threading.Semaphore(0)

    def rows() -> Iterator[Row]:
        for name in "abcd":
            yield stretch(tiny_pipeline, name)
            taken.release()

    records = joined(rows(), assembly, at_once=2)
    assembly.gates["a"].set()
    assert next(records).name == "a"
    # b and c are begun, d waits: nothing is asked for behind it.
    for _ in range(3):
        assert taken.acquire(timeout=60)
    assert set(assembly.begun) <= {"a", "b", "c"}
    for gate in assembly.gates.values():
        gate.set()
    assert {record.name for record in records} == {"b", "c", "d"}


def test_an_error_of_the_rows_comes_after_the_joins_that_have_begun(
    assembly: _Gated, tiny_pipeline: Path
) -> None:
    def rows() -> Iterator[Any]:
        yield stretch(tiny_pipeline, "a")
        raise KeyError("the graph")

    records = joined(rows(), assembly)
    assembly.gates["a"].set()
    assert next(records).name == "a"
    with pytest.raises(KeyError, match="the graph"):
        next(records)
