"""Farm metrics, scraped over HTTP, against what ``status`` says of the same output."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from prometheus_client.parser import text_string_to_metric_families

from glc_ray import exporter, status
from glc_ray.display import fraction
from glc_ray.evaluation import Video
from glc_ray.evaluation.table import Row, write_table
from glc_ray.exporter import FarmCollector, serving
from glc_ray.overview import overview
from glc_ray.store import run_status
from glc_ray.store.lease import run_lease
from glc_ray.store.output import Output
from glc_ray.store.paths import EVALUATION
from glc_ray.store.record import invalid_record
from glc_ray.telemetry import METRICS, MOST_IN_WORK, MOST_SCORES
from tests.test_status import DECODING, DENOISING, place, record, run_of, store  # noqa: F401

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(port: int) -> Samples:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return samples(answer.read().decode())


def samples(text: str) -> Samples:
    return {
        (one.name, frozenset(one.labels.items())): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def value(found: Samples, place: Output, name: str, **labels: str) -> float:  # noqa: F811
    return found[name, frozenset({"output": place.uri(), **labels}.items())]


@contextmanager
def scraped(place: Output) -> Iterator[Samples]:  # noqa: F811
    with serving(place, 0, "127.0.0.1") as port:
        yield scrape(port)


def test_a_run_in_work(place: Output) -> None:  # noqa: F811
    store(
        place,
        replace(record("a"), num_frames=145, size_bytes=7000, update_s=2.5, forward_s=60.0),
        replace(record("b", "failed"), num_frames=0, forward_s=5.0),
        invalid_record("c.csv", 3, "no prompt"),
    )
    slotted = replace(DENOISING, slot=3)
    run = run_of(num_videos=20, ended={"done": 1, "failed": 1}, in_work=(slotted, DECODING))
    run_status.write(place, run)
    with scraped(place) as found:
        assert value(found, place, "glc_run_running") == 1
        assert value(found, place, "glc_run_sign_timestamp_seconds") == run.updated_at
        for state, count in overview(place).counts.items():
            assert value(found, place, "glc_videos", state=state) == count
        assert value(found, place, "glc_video_info", slot="3", video="blue-box") == 1
        for video in (slotted, DECODING):
            progress = value(found, place, "glc_video_progress", video=video.name)
            assert progress == pytest.approx(fraction(video))
        assert value(found, place, "glc_rendered_frames") == 145
        assert value(found, place, "glc_rendered_bytes") == 7000
        assert value(found, place, "glc_rendered_seconds", stage="refine") == 2.5
        assert value(found, place, "glc_rendered_seconds", stage="forward") == 65
        assert value(found, place, "glc_storage_free_bytes") > 0
        names = {name for name, _ in found}
        # Nothing was evaluated.
        of_scores = {"glc_score", "glc_scored_videos"}
        farm = {metric.exported for metric in METRICS if metric.source == "farm"}
        assert names == farm - of_scores < farm


def test_they_outlive_the_run(place: Output) -> None:  # noqa: F811
    store(place, record("a"))
    run_status.write(
        place, run_of("stopped", num_videos=5, ended={"done": 1}, in_work=(DENOISING,))
    )
    with scraped(place) as found:
        assert value(found, place, "glc_run_running") == 0
        assert value(found, place, "glc_videos", state="done") == 1
        assert not [name for name, _ in found if name.startswith("glc_video_")]


def test_a_run_that_died_is_not_running(
    place: Output,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    here = replace(run_of(), host=socket.gethostname())
    run_status.write(place, here)
    collector = FarmCollector(place)

    def is_running() -> float:
        (family,) = [one for one in collector.collect() if one.name == "glc_run_running"]
        return family.samples[0].value

    with run_lease(place):
        assert is_running() == 1
    assert is_running() == 0, "on this machine the lease tells at once"
    run_status.write(place, run_of())
    assert is_running() == 1
    monkeypatch.setattr(exporter, "_DIED_S", -1.0)
    assert is_running() == 0, "elsewhere silence tells"


def test_a_clock_that_is_behind_is_no_death(place: Output) -> None:  # noqa: F811
    run = run_of(updated_at=time.time() - 1800)
    run_status.write(place, run)
    with serving(place, 0, "127.0.0.1") as port:
        assert value(scrape(port), place, "glc_run_running") == 0
        run_status.write(place, replace(run, updated_at=run.updated_at + 2))
        assert value(scrape(port), place, "glc_run_running") == 1


def test_names_are_shown_of_a_bounded_number_of_videos(place: Output) -> None:  # noqa: F811
    many = tuple(replace(DENOISING, name=f"v{i}", slot=i) for i in range(2 * MOST_IN_WORK))
    run_status.write(place, run_of(num_videos=len(many), in_work=many))
    with scraped(place) as found:
        assert value(found, place, "glc_videos", state="denoising") == len(many)
        assert len([1 for name, _ in found if name == "glc_video_progress"]) == MOST_IN_WORK


def test_names_cannot_break_the_format(place: Output) -> None:  # noqa: F811
    run_status.write(place, run_of(in_work=(replace(DENOISING, name='a"\n}\\ 1\x1b'),)))
    with scraped(place) as found:
        assert value(found, place, "glc_video_progress", video='a" }\\ 1') > 0


def test_scores_as_the_last_evaluation_left_them(place: Output) -> None:  # noqa: F811
    store(place, record("a"))

    def evaluated(values: dict[str, list[float]]) -> None:
        rows = [
            Row(Video(str(index), ""), score, value)
            for score, of in values.items()
            for index, value in enumerate(of)
        ]
        with place.writing(EVALUATION) as path:
            write_table(rows, path)

    with serving(place, 0, "127.0.0.1") as port:
        assert not [name for name, _ in scrape(port) if name.startswith("glc_score")]
        evaluated({"seam": [1.0] * 90 + [3.0] * 10, "drift": [0.25], 'a"\n': [1.0]})
        found = scrape(port)
        assert value(found, place, "glc_scored_videos", score="seam") == 100
        assert value(found, place, "glc_score", score="seam", of="mean") == pytest.approx(1.2)
        assert value(found, place, "glc_score", score="seam", of="low") == 1.0
        assert value(found, place, "glc_score", score="seam", of="high") == 3.0
        assert {
            value(found, place, "glc_score", score="drift", of=of) for of in ("mean", "low", "high")
        } == {0.25}
        assert value(found, place, "glc_score", score='a"', of="mean") == 1.0
        evaluated({f"s{index}": [float(index)] for index in range(2 * MOST_SCORES)})
        found = scrape(port)
        assert len([1 for name, _ in found if name == "glc_scored_videos"]) == MOST_SCORES


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not parquet",
        {"score": [1], "values": ["x"]},
        {"score": [None, "seam"], "value": [1.0, None]},
    ],
)
def test_somebody_elses_scores_are_no_trouble(
    place: Output,  # noqa: F811
    content: bytes | dict[str, list[object]],
) -> None:
    store(place, record("a"))
    if isinstance(content, bytes):
        place.put_bytes(content, EVALUATION)
    else:
        with place.writing(EVALUATION) as path:
            pq.write_table(pa.table(content), path)
    with scraped(place) as found:
        assert value(found, place, "glc_output_read") == 1
        assert not [name for name, _ in found if name.startswith("glc_score")]


def test_an_output_that_cannot_be_read_says_so_and_nothing_else(
    place: Output,  # noqa: F811
) -> None:
    store(place, record("a"))
    with serving(place, 0, "127.0.0.1") as port:
        assert value(scrape(port), place, "glc_output_read") == 1
        for part in Path(place.uri(".work/manifest")).iterdir():
            part.write_bytes(b"not parquet")
            part.rename(part.with_name("9" + part.name[1:]))
        found = scrape(port)
        assert [name for name, _ in found] == ["glc_output_read"]
        assert value(found, place, "glc_output_read") == 0


def test_an_output_may_come_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    place = Output(str(tmp_path / "farm"))  # noqa: F811
    with serving(place, 0, "127.0.0.1") as port:
        for _ in range(2):
            assert scrape(port) == {
                ("glc_output_read", frozenset({("output", place.uri())})): 0,
            }
        assert not Path(place.uri()).exists(), "who watches makes nothing"
        assert [record.getMessage() for record in caplog.records] == [
            f"{place.uri()}: no output of glc-ray: it has neither manifest.parquet nor a run that "
            "begins; give the --output of a render; until it can be read, glc_output_read is 0"
        ]
        place.prepare()
        run_status.write(place, run_of(num_videos=2))
        found = scrape(port)
        assert value(found, place, "glc_output_read") == 1
        assert value(found, place, "glc_videos", state="queued") == 2


def test_a_wrong_port(place: Output) -> None:  # noqa: F811
    store(place, record("a"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(status.main, [place.location, "--serve-metrics", str(port)])
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: --serve-metrics {port}: nobody can listen at 127.0.0.1:{port} (Address already in "
        "use); give a port that is free, or 0 for any, and a --host of this machine\n"
    )


def test_the_command_listens_on_loopback_until_it_is_interrupted(
    place: Output,  # noqa: F811
) -> None:
    store(place, record("a"))
    command = [sys.executable, "-m", "glc_ray.status", place.location, "--serve-metrics", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        url = said.rpartition(" ")[2].strip()
        assert said == f"metrics of {place.uri()} at {url}\n"
        assert url.startswith("http://127.0.0.1:")
        assert value(scrape(int(url.rpartition(":")[2].split("/")[0])), place, "glc_output_read")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
