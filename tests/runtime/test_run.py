"""What a run does with records and signals: without a cluster, for nothing here renders."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime import run as module
from glc_ray.runtime.pipeline import Listed
from glc_ray.runtime.run import Group, Run
from glc_ray.stopping import StoppedError
from glc_ray.store import manifest
from glc_ray.store.lease import LeaseLostError
from glc_ray.store.output import Output
from glc_ray.store.paths import LEASE, work_path
from glc_ray.store.record import VideoRecord
from tests.report_page.outputs import many

Records = Callable[[], Iterator[VideoRecord]]


class _Renderer:
    """Stands for the graph: its records come from a test."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def __call__(self, *_: Any, **__: Any) -> _Renderer:
        return self

    def records(self, source: Any) -> Iterator[VideoRecord]:
        return self._records()

    def checkpoint(self, timeout_s: float) -> int:
        return 0

    def close(self) -> None:
        pass


@pytest.fixture
def place(tmp_path: Path) -> Output:
    place = Output(str(tmp_path / "out"))
    place.prepare()
    return place


@pytest.fixture
def groups(tiny_pipeline: Path) -> list[Group]:
    return [Group(load_pipeline(str(tiny_pipeline)), Listed(()))]


@pytest.fixture
def rendering(monkeypatch: pytest.MonkeyPatch) -> Callable[[Records], None]:
    monkeypatch.setattr(module, "connected", lambda *_, **__: nullcontext())
    return lambda records: monkeypatch.setattr(module, "Renderer", _Renderer(records))


def statuses(place: Output) -> dict[str, str]:
    return {row.name: row.status for row in manifest.read(place)}


def test_the_work_folder_goes_when_the_row_is_stored_and_that_of_a_failed_video_stays(
    place: Output,
    groups: list[Group],
    rendering: Callable[[Records], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done, failed = many_of("done"), many_of("failed")
    for record in (done, failed):
        place.put_bytes(b"0", work_path(record.id, "latents.safetensors"))
    rendering(lambda: iter([done, failed]))
    flush, found = manifest.ManifestWriter.flush, []

    def flushed(self: manifest.ManifestWriter) -> None:
        found.append(len(place.list(work_path(done.id))))
        flush(self)

    monkeypatch.setattr(manifest.ManifestWriter, "flush", flushed)
    with Run(place) as run:
        assert len(list(run.render(groups, None))) == 2
    assert found[0] == 1
    assert place.list(work_path(done.id)) == []
    assert len(place.list(work_path(failed.id))) == 1
    assert statuses(place) == {done.name: "done", failed.name: "failed"}


def test_a_run_clears_what_one_left_that_was_killed_before_it_did(place: Output) -> None:
    done, unfinished = (f"{number:016x}" for number in (7, 8))
    for video in (done, unfinished):
        place.put_bytes(b"0", work_path(video, "segments/0.mp4"))
    place.put_bytes(b"0", ".work/queue/part-0.parquet")
    with Run(place) as run:
        run.clear_left(np.array([5, 7], np.uint64))
    left = {file.path for file in place.list(".work") if "/lease/" not in file.path}
    assert work_path(done, "segments/0.mp4") not in left
    assert {work_path(unfinished, "segments/0.mp4"), ".work/queue/part-0.parquet"} <= left


def test_after_a_signal_the_records_that_are_there_are_stored(
    place: Output, groups: list[Group], rendering: Callable[[Records], None]
) -> None:
    there, release, made = threading.Event(), threading.Event(), many(3)

    def records() -> Iterator[VideoRecord]:
        yield from made
        there.set()
        release.wait()

    rendering(records)
    with pytest.raises(StoppedError), Run(place, stops=True) as run:
        for _ in run.render(groups, None):
            assert there.wait(60)
            signal.raise_signal(signal.SIGTERM)
            release.set()
    assert len(manifest.read(place)) == 3


def test_a_run_that_lost_its_output_ends_without_waiting_for_a_record(
    place: Output, groups: list[Group], rendering: Callable[[Records], None]
) -> None:
    release, late = threading.Event(), []

    def records() -> Iterator[VideoRecord]:
        for stored in place.list(LEASE):
            place.delete(stored.path)
        run._lease.renew()
        late.append(release.wait(30))
        yield from many(1)

    rendering(records)
    with pytest.raises(LeaseLostError, match="another one took the output"), Run(place) as run:
        try:
            list(run.render(groups, None))
        finally:
            assert late == []
            release.set()


def many_of(status: str) -> VideoRecord:
    return next(record for record in many(64) if record.status == status)
