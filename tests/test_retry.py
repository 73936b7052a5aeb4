"""What is rendered again, and that it is what was meant the first time."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from glc_ray.catalog import group_of
from glc_ray.config import VideoJob
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError
from glc_ray.retry import Chosen, choose, jobs, main
from glc_ray.runtime.rows import record_of, row_of, video_id
from glc_ray.store import manifest
from glc_ray.store.output import Output
from glc_ray.store.record import VideoRecord, invalid_record
from tests.conftest import write_tiny_pipeline
from tests.test_status import record, store


@pytest.fixture
def place(tmp_path: Path) -> Output:
    place = Output(str(tmp_path / "out"))
    place.prepare()
    return place


@pytest.fixture
def model(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model("sincos"), tmp_path / "model"))


@pytest.fixture
def job(model: Path, tmp_path: Path) -> VideoJob:
    return build_job(load_pipeline(str(write_tiny_pipeline(tmp_path, model))), None, 7)


def failed(job: VideoJob, name: str, **given: object) -> VideoRecord:
    row = row_of(job, name, priority=3, line=12)
    return replace(record_of(row), error="out of memory", **given)  # type: ignore[arg-type]


def seeded(job: VideoJob, seed: int) -> VideoJob:
    return job.model_copy(update={"seed": seed})


def call(place: Output, *arguments: str) -> Result:
    return CliRunner().invoke(main, [place.location, *arguments])


def test_a_failed_video_is_the_same_video_again(place: Output, job: VideoJob) -> None:
    store(place, failed(job, "赤い-ball"), record("other"))
    chosen = choose(place)
    assert chosen == Chosen({video_id(job): "赤い-ball"})
    (again,) = jobs(place, chosen)
    assert again.job == job
    assert (again.name, again.priority, again.line) == ("赤い-ball", 3, 12)
    assert again.group == group_of(job)


def test_workers_change_where_it_is_computed_and_nothing_of_the_video(
    place: Output, job: VideoJob
) -> None:
    store(place, failed(job, "ball"))
    (again,) = jobs(place, choose(place), workers=5)
    assert again.job.pipeline.resources.denoisers.count == 5
    assert again.job.specification_hash == job.specification_hash
    assert again.group == group_of(again.job) != group_of(job)


@pytest.mark.parametrize(
    ("names", "cancelled", "expected"),
    [
        ((), False, {"lost", "lost-too"}),
        ((), True, {"lost", "lost-too", "stopped"}),
        (("lost",), False, {"lost"}),
        (("stopped", "lost-too"), False, {"lost-too", "stopped"}),
        (("good",), False, set()),
        (("lost", "good"), False, {"lost"}),
    ],
)
def test_which(place: Output, names: tuple[str, ...], cancelled: bool, expected: set[str]) -> None:
    store(
        place,
        record("good"),
        record("lost", "failed"),
        record("lost-too", "failed"),
        record("stopped", "cancelled"),
    )
    chosen = choose(place, names, cancelled=cancelled)
    assert set(chosen.ids.values()) == expected
    told = ["good: done already, so it is not rendered again"] if "good" in names else []
    assert chosen.notes == told


def test_a_row_that_was_changed_since_it_failed_is_another_video(
    place: Output, job: VideoJob
) -> None:
    """Its newer video has the same name, so that the older one would replace its files."""
    newer = replace(failed(seeded(job, 8), "ball", finished_at=20.0), status="done", error="")
    store(place, failed(job, "ball", finished_at=10.0), newer)
    assert choose(place).ids == {}
    both = failed(seeded(job, 9), "ball", finished_at=30.0)
    store(place, both)
    assert choose(place).ids == {both.id: "ball"}


def test_invalid_rows_are_no_videos(place: Output) -> None:
    store(place, *(invalid_record("c.csv", line, "no prompt", name=f"r{line}") for line in (3, 4)))
    told = (
        "2 invalid rows of a catalog cannot be retried, for none is a video: mend them there, and "
        "render the catalog again\n"
    )
    result = call(place)
    assert (result.exit_code, result.stderr) == (0, told)
    assert result.stdout == f"{place.location}: nothing to retry\n"
    named = call(place, "r3")
    assert named.stderr == told.replace("2 invalid rows", "1 invalid row")


def test_unknown_name(place: Output) -> None:
    store(place, record("lost", "failed"))
    result = call(place, "lost", "lots")
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: NAME lots: {place.location} has no such video; `glc-ray status --all` lists those "
        "that it has\n"
    )


def test_no_output(tmp_path: Path) -> None:
    result = call(Output(str(tmp_path / "nowhere")))
    assert result.exit_code == 2
    assert "nowhere: no output of glc-ray" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_workers_must_be_some(place: Output) -> None:
    result = call(place, "--workers", "0")
    assert result.exit_code == 2
    assert "Invalid value for '--workers': 0 is not in the range x>=1." in result.stderr


def _of_another_version(row: VideoRecord) -> VideoRecord:
    specification = json.loads(row.specification) | {"key_of_the_future": 1}
    return replace(row, specification=json.dumps(specification))


def _forged(row: VideoRecord) -> VideoRecord:
    specification = json.loads(row.specification) | {"seed": 8}
    return replace(row, specification=json.dumps(specification))


def _elsewhere(row: VideoRecord) -> VideoRecord:
    return replace(row, name="../../etc/ball")


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_of_another_version, "ball: not retried: its specification is one of another version"),
        (_forged, "ball: not retried: by this version of glc-ray it would be another video"),
        (_elsewhere, "etc/ball: not retried: name = '../../etc/ball': '/' is not allowed"),
    ],
)
def test_what_cannot_be_rendered_as_it_was_meant_is_left_out(
    place: Output,
    job: VideoJob,
    spoil: Callable[[VideoRecord], VideoRecord],
    text: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    store(place, spoil(failed(job, "ball")))
    with pytest.raises(UserError) as error:
        jobs(place, choose(place))
    assert str(error.value) == (
        f"{place.location}: none of the 1 videos can be retried, for the reasons above; render "
        "them anew"
    )
    (warning,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert text in warning.getMessage()
    store(place, failed(seeded(job, 9), "box"))
    assert [again.name for again in jobs(place, choose(place))] == ["box"]


def test_model_that_has_changed_or_gone(
    place: Output, job: VideoJob, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store(place, failed(job, "ball"), failed(seeded(job, 8), "box"))
    weights = model / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError, match="none of the 2 videos"):
        jobs(place, choose(place))
    assert "its files have changed since, so it would be another video" in caplog.text
    weights.unlink()
    caplog.clear()
    with pytest.raises(UserError, match="none of the 2 videos"):
        jobs(place, choose(place))
    assert "the part 'transformer' is missing" in caplog.text


def test_renders_on_a_cluster_without_catalog_and_pipeline_file(
    place: Output, job: VideoJob, tmp_path: Path
) -> None:
    (tmp_path / "tiny.yaml").unlink()
    store(place, failed(job, "赤い-ball"), record("good"))
    result = call(place, "--address", "local")
    assert (result.exit_code, result.stdout) == (0, f"{place.location}: 1 of 1 done\n")
    rows = {row.name: row for row in manifest.read(place)}
    assert set(rows) == {"good", "赤い-ball"}, "in place of the row that failed"
    again = rows["赤い-ball"]
    assert (again.status, again.error) == ("done", "")
    assert (again.catalog_line, again.priority, again.specification_hash) == (
        12,
        3,
        job.specification_hash,
    )
    assert place.size("videos/赤い-ball.mp4") == again.size_bytes > 0
    assert choose(place).ids == {}
