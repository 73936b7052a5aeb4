"""Evaluation on Ray gives what it gives in one process."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
from click.testing import CliRunner

from glc_ray.cli import main
from glc_ray.store.output import Output
from tests.media.clips import moving_texture
from tests.report_page.outputs import job, store_rows, store_video


def test_workers_change_no_score(ray_cluster: None, tmp_path: Path):
    tables = []
    place = Output(str(tmp_path / "out"))
    place.prepare()
    frames = moving_texture(40)
    rows = [
        store_video(place, f"take-{seed}", job(seed=seed), frames[seed : seed + 33])
        for seed in range(4)
    ]
    store_rows(place, *rows)
    Path(place.uri("videos/take-3.mp4")).write_bytes(b"not a video")
    for options in (["--workers", "2"], []):
        asked = ["evaluate", place.location, "--scores", "change,motion", "--anew", *options]
        done = CliRunner().invoke(main, asked)
        assert done.exit_code == 1
        assert "take-3.mp4: cannot be read as a video" in done.output
        assert "execution finished" not in done.output, "Ray Data talks of its graph"
        rows = pq.read_table(place.uri("scores.parquet")).to_pylist()
        tables.append(sorted((row["name"], row["score"], row["value"]) for row in rows))
    assert tables[0] == tables[1]
    assert {name for name, _, _ in tables[0]} == {"take-0", "take-1", "take-2"}
