"""A run keeps the report page: without a cluster, for nothing here renders."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from glc_ray.runtime.run import Run
from glc_ray.stopping import StoppedError
from glc_ray.store import manifest
from glc_ray.store.output import Output
from tests.report_page.outputs import many


@pytest.fixture
def place(tmp_path: Path) -> Output:
    place = Output(str(tmp_path / "out"))
    place.prepare()
    return place


def index(place: Output) -> dict:
    text = (place.read_bytes("report/data/index.js") or b"").decode()
    return json.loads(text[len("glcReport.index(") : -len(");\n")])


def test_at_the_end_it_shows_everything_and_that_the_run_is_over(place: Output) -> None:
    records = many(5)
    for some in (records[:3], records[3:]):
        with Run(place, report=True) as run:
            run.expect(len(some))
            for one in some:
                run.add(one)
    found = index(place)
    assert (found["num_rows"], found["run"]["state"]) == (5, "done")
    assert found["run"]["ended"] == {one.status: 1 for one in records[3:]}


def test_after_a_signal_it_says_so_and_the_next_run_adds_what_is_missing(place: Output) -> None:
    records = many(3)
    with pytest.raises(StoppedError), Run(place, report=True) as run:
        run.add(records[0])
        raise StoppedError("SIGTERM")
    assert index(place)["run"]["state"] == "stopped"
    with Run(place) as run:
        run.add(records[1])
    with Run(place, report=True):
        pass
    assert index(place)["num_rows"] == 2


def test_none_is_made_that_was_not_asked_for(place: Output) -> None:
    with Run(place) as run:
        run.add(many(1)[0])
    assert place.list("report") == []


def test_a_report_that_cannot_be_written_fails_nothing(
    place: Output, caplog: pytest.LogCaptureFixture
) -> None:
    place.put_bytes(b"in the way", "report")
    with caplog.at_level(logging.WARNING), Run(place, report=True) as run:
        run.add(many(1)[0])
    assert len(manifest.read(place)) == 1
    (warning,) = caplog.messages
    assert warning.startswith("the report is behind: ")
    assert f"`glc-ray report {place.uri()}` makes it from the manifest" in warning
