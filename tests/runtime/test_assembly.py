"""Segments that are made and joined in this process, on local storage and in a bucket."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from glc_ray.runtime.assembly import Assembly
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.rows import Row, ledger_of, video_id
from glc_ray.sampler import torch_threads
from glc_ray.store.output import Output
from glc_ray.store.paths import latents_path, video_path, work_latents_path
from tests.runtime.in_process import decode_stage_of, decoded, tiny_job, without_ray
from tests.store.bucket_server import BucketServer
from tests.store.conftest import bucket_server, output, s3, s3_output  # noqa: F401


@pytest.fixture(autouse=True)
def own_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    without_ray(monkeypatch)
    # An actor sets them for its process, which here is that of other tests, too.
    with torch_threads(torch.get_num_threads()):
        yield


def made(place: Output, pipeline: Path) -> tuple[FilePlans, Row]:
    """A video of which everything is there but the join."""
    job = tiny_job(pipeline)
    plans = FilePlans(job.pipeline)
    row = decoded(decode_stage_of(place, job, plans), job, plans)
    assert row["error"] == ""
    return plans, row


def test_a_video_is_joined_again_where_its_record_was_lost(
    output: Output,  # noqa: F811
    tiny_pipeline: Path,
) -> None:
    """Also where its latents have gone to their place already."""
    plans, row = made(output, tiny_pipeline)
    job = tiny_job(tiny_pipeline)
    videos = []
    for _ in range(2):
        record = Assembly(output.location, plans, keep_latents=True).record([row])
        assert (record.status, record.error) == ("done", "")
        videos.append(output.read_bytes(video_path("video")))
    assert videos[0] == videos[1]
    assert len(ledger_of(output, job).done()) == 2
    assert output.stored(work_latents_path(video_id(job))) is None
    assert output.stored(latents_path("video")) is not None


def test_latents_that_are_to_be_kept_and_are_lost_fail_the_join(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    place = Output(str(tmp_path / "out"))
    place.prepare()
    plans, row = made(place, tiny_pipeline)
    place.delete(work_latents_path(row["id"]))
    record = Assembly(place.location, plans, keep_latents=True).record([row])
    assert record.status == "failed"
    assert record.error.startswith(f"join: {place.uri(work_latents_path(row['id']))}: cannot move")


def test_a_join_downloads_a_segment_once(
    s3_output: Output,  # noqa: F811
    s3: BucketServer,  # noqa: F811
    tiny_pipeline: Path,
) -> None:
    plans, row = made(s3_output, tiny_pipeline)
    read: Counter[str] = Counter()

    def guard(method: str, path: str) -> None:
        if method == "GET" and path.endswith(".mp4"):
            read[path] += 1

    with s3.guarded(guard):
        record = Assembly(s3_output.location, plans, keep_latents=False).record([row])
    assert (record.status, record.error) == ("done", "")
    assert list(read.values()) == [1, 1]


def test_a_segment_that_changed_is_not_joined(
    output: Output,  # noqa: F811
    tiny_pipeline: Path,
) -> None:
    plans, row = made(output, tiny_pipeline)
    entry = ledger_of(output, tiny_job(tiny_pipeline)).done()[1]
    output.put_bytes(bytes(entry.size), entry.path)
    record = Assembly(output.location, plans, keep_latents=False).record([row])
    assert record.status == "failed"
    assert record.error.startswith(
        f"join: {output.uri(entry.path)}: is not what was stored (its checksum differs), and is "
        "removed"
    )
    assert output.stored(entry.path) is None
