"""Rows that are true no more leave the manifest that people read, and nothing else does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from glc_ray.names import name_key
from glc_ray.store import manifest
from glc_ray.store.manifest import ManifestWriter, VideoRecord, invalid_record
from glc_ray.store.outdated import Asked, Names
from glc_ray.store.output import Output
from glc_ray.store.totals import ManifestTotals

HERE, ELSEWHERE = "/catalogs/here.jsonl", "/catalogs/elsewhere.jsonl"


@pytest.fixture
def output(tmp_path: Path) -> Output:
    place = Output(str(tmp_path))
    place.prepare()
    return place


def row(number: int, name: str, status: str, catalog: str = HERE, at: float = 1.0) -> VideoRecord:
    return VideoRecord(
        id=f"{number:016x}",
        name=name,
        prompt="a ball",
        seed=0,
        specification_hash="",
        specification="{}",
        status=status,
        catalog=catalog,
        finished_at=at,
    )


def asked(
    *videos: tuple[int, str], catalog: str | None = HERE, invalid: tuple[str, ...] = ()
) -> Asked:
    ids, names = ([number for number, _ in videos], [name_key(name) for _, name in videos])
    return Asked(
        catalog,
        np.sort(np.array(ids, np.uint64)),
        np.sort(np.array(names, np.uint64)),
        set(invalid),
    )


def put_right(output: Output, wanted: Asked) -> Names:
    names = Names(output, wanted)
    with ManifestWriter(output) as writer:
        for one in names.outdated():
            writer.add(one)
    return names


def left(output: Output) -> list[tuple[str, str]]:
    return [(one.name, one.status) for one in manifest.read(output)]


def store(output: Output, *rows: VideoRecord) -> None:
    with ManifestWriter(output) as writer:
        for one in rows:
            writer.add(one)


def test_what_its_catalog_has_no_more_goes_and_what_others_have_stays(output: Output) -> None:
    mended, wrong = invalid_record(HERE, 3, "no prompt"), invalid_record(HERE, 4, "no prompt")
    store(
        output,
        row(1, "failed", "failed"),
        row(2, "gone", "failed"),
        row(3, "changed", "failed", ELSEWHERE),
        row(4, "other", "failed", ELSEWHERE),
        row(5, "lone", "failed", ""),
        row(6, "stopped", "cancelled"),
        row(7, "done and gone", "done"),
        mended,
        wrong,
        invalid_record(ELSEWHERE, 3, "no prompt"),
    )
    put_right(output, asked((1, "failed"), (30, "Changed"), invalid=(wrong.id,)))
    assert left(output) == [
        ("done and gone", "done"),
        ("failed", "failed"),
        ("lone", "failed"),
        ("other", "failed"),
        ("", "invalid"),
        ("", "invalid"),
    ]
    # A second look changes nothing, and what comes back is there again.
    put_right(output, asked((1, "failed"), invalid=(wrong.id,)))
    assert len(left(output)) == 6
    store(output, row(2, "gone", "done", at=2.0))
    assert ("gone", "done") in left(output)


def test_a_video_takes_the_name_of_another_when_it_is_done_and_not_before(output: Output) -> None:
    store(output, row(1, "a", "done"), row(2, "b", "done"))
    names = put_right(output, asked((10, "a"), (2, "b")))
    assert left(output) == [("a", "done"), ("b", "done")]
    new = row(10, "a", "done", at=2.0)
    assert names.replaced(replace(new, status="failed")) is None
    assert names.replaced(row(2, "b", "done")) is None
    gone = names.replaced(new)
    assert gone is not None
    store(output, new, gone)
    (first, second) = manifest.read(output)
    assert (first.id, second.name) == (new.id, "b")
    statuses = pq.read_table(Path(output.uri("manifest.parquet")))["status"].to_pylist()
    assert sorted(statuses) == ["done", "done", "outdated"]


def test_a_name_that_two_have_is_the_last_ones(output: Output) -> None:
    """The run was killed between the two rows."""
    store(output, row(1, "a", "done", at=5.0), row(2, "a", "done", at=3.0))
    put_right(output, asked((1, "a"), catalog=None))
    assert [one.id for one in manifest.read(output)] == [row(1, "a", "done").id]
    store(output, row(3, "b", "done", at=1.0), row(4, "b", "done", at=4.0))
    names = put_right(output, asked((5, "b")))
    assert [one.id for one in manifest.read(output)][1:] == [row(4, "b", "done").id]
    gone = names.replaced(row(5, "b", "done", at=6.0))
    assert gone is not None
    assert gone.id == row(4, "b", "done").id


def test_what_a_video_took_is_counted_when_it_is_outdated(output: Output) -> None:
    store(output, replace(row(1, "a", "failed"), forward_s=3.0))
    put_right(output, asked((2, "a")))
    totals = ManifestTotals(output).look()
    assert (totals.statuses, totals.sums["forward_s"]) == ({}, 3.0)


def test_an_empty_manifest(output: Output) -> None:
    names = put_right(output, asked())
    assert names.replaced(row(1, "a", "done")) is None
