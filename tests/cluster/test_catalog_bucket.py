"""A catalog in a bucket becomes videos in a bucket."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
from click.testing import CliRunner

from glc_ray.render_catalog import CatalogEnd, render_catalog
from glc_ray.status import main as status
from glc_ray.store import manifest
from glc_ray.store.output import Output
from glc_ray.store.run_status import read
from tests.store.bucket_server import ACCESS_KEY, SECRET_KEY, BucketServer


def test_a_catalog_in_a_bucket_renders_into_a_bucket_and_is_found_done(
    ray_cluster: None, tiny_pipeline: Path, s3: BucketServer
) -> None:
    bucket = s3.root / "catalogs"
    bucket.mkdir()
    row = {"prompt": "a red ball", "name": "red", "sampling.num_steps": 1, "priority": 2}
    (bucket / "rows.jsonl").write_text(json.dumps(row) + "\n" + json.dumps({"promt": "a"}))
    # Workers that run already have another environment: the keys travel in the URIs.
    keys = f"{ACCESS_KEY}:{SECRET_KEY}@"
    place = Output(s3.uri("catalogs", "out", keys=keys))

    def ended() -> CatalogEnd:
        end = render_catalog(
            s3.uri("catalogs", "rows.jsonl", keys=keys),
            pipeline=str(tiny_pipeline),
            output=place.location,
        )
        run = read(place)
        assert run is not None
        assert (run.state, run.num_videos, run.ended.get("done", 0)) == (
            "done",
            end.done + 1,
            end.done,
        )
        return end

    first = ended()
    assert (first.done, first.skipped, first.invalid, first.failed) == (1, 0, 1, 0)
    (queued,) = (bucket / "out" / ".work" / "queue").rglob("*.parquet")
    (stored,) = pq.read_table(queued).to_pylist()
    assert queued.parent.name == "2"
    assert (stored["name"], stored["line"]) == ("red", 1)
    # The keys are in no file.
    assert stored["catalog"] == "s3://catalogs/rows.jsonl"
    assert all(SECRET_KEY not in place.read_text(errors="ignore") for place in files(bucket))

    second = ended()
    assert (second.done, second.skipped, second.invalid, second.failed) == (0, 1, 1, 0)
    rows = {row.catalog_line: row for row in manifest.read(place)}
    assert {line: row.status for line, row in rows.items()} == {1: "done", 2: "invalid"}
    assert (bucket / "out" / rows[1].path).stat().st_size > 1000
    told = CliRunner().invoke(status, [place.location, "--json"])
    assert told.exit_code == 1, "a row is invalid"
    assert SECRET_KEY not in told.output
    assert json.loads(told.output)["run"]["state"] == "done"


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
