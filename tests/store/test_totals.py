"""Totals that follow the manifest, against adding up all of it."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from glc_ray.store import manifest
from glc_ray.store.manifest import ManifestWriter
from glc_ray.store.output import Output
from glc_ray.store.record import VideoRecord
from glc_ray.store.totals import SUMS, ManifestTotals


def record(number: int, status: str, seed: int = 0) -> VideoRecord:
    chance = random.Random(f"{number} {seed}")  # noqa: S311
    return VideoRecord(
        id=f"{number:016x}",
        name=f"v{number}",
        prompt="a ball",
        seed=seed,
        specification_hash=f"{number:064x}",
        specification="{}" * 500,
        status=status,
        num_frames=chance.randrange(100),
        size_bytes=chance.randrange(10**6),
        **{name: float(chance.randrange(1000)) for name in SUMS if name.endswith("_s")},
    )


def check(totals: ManifestTotals, place: Output) -> None:
    rows = manifest.read(place)
    found = totals.look()
    assert found.statuses == Counter(row.status for row in rows)
    for name in SUMS:
        of = [row for row in rows if row.status == "done" or name.endswith("_s")]
        assert found.sums[name] == sum(getattr(row, name) for row in of)


@pytest.mark.parametrize("seed", range(5))
def test_they_are_those_of_the_newest_rows_whoever_writes_and_merges(
    tmp_path: Path, seed: int
) -> None:
    place = Output(str(tmp_path))
    chance = random.Random(seed)  # noqa: S311
    totals = ManifestTotals(place)
    check(totals, place)
    for turn in range(12):
        with ManifestWriter(place, flush_rows=7, flush_s=1e9) as writer:
            for _ in range(chance.randrange(1, 30)):
                status = chance.choice(["done", "failed", "cancelled"])
                writer.add(record(chance.randrange(40), status, seed=turn))
            if chance.random() < 0.7:
                # Without the merge at its end.
                writer.flush()
                check(totals, place)
        check(totals, place)


def test_what_is_in_work_again_does_not_count(tmp_path: Path) -> None:
    place = Output(str(tmp_path))
    with ManifestWriter(place) as writer:
        for number, status in enumerate(("done", "failed", "failed")):
            writer.add(record(number, status))
    assert ManifestTotals(place).look(["v1", "v7"]).statuses == {"done": 1, "failed": 1}


def test_only_new_files_are_read(tmp_path: Path) -> None:
    place = Output(str(tmp_path))
    with ManifestWriter(place) as writer:
        for number in range(1000):
            writer.add(record(number, "done"))
    totals = ManifestTotals(place)
    totals.look()
    assert totals.num_read == 1000
    totals.look()
    assert totals.num_read == 1000
    writer = ManifestWriter(place)
    writer.add(record(7, "failed"))
    writer.flush()
    assert totals.look().statuses == {"done": 999, "failed": 1}
    assert totals.num_read == 1001


def test_a_manifest_from_elsewhere_may_change(tmp_path: Path) -> None:
    one, two = Output(str(tmp_path / "one")), Output(str(tmp_path / "two"))
    for place, count in ((one, 3), (two, 5)):
        with ManifestWriter(place) as writer:
            for number in range(count):
                writer.add(record(number, "done"))
    elsewhere = Output(str(tmp_path / "elsewhere"))
    totals = ManifestTotals(elsewhere)
    for place, count in ((one, 3), (two, 5)):
        elsewhere.put(Path(place.uri(manifest.MANIFEST)), manifest.MANIFEST)
        assert totals.look().statuses == {"done": count}
