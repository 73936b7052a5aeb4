"""Decoders begin in the last denoising step, and wait for what is missing.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import pytest
import ray
import torch
from ray.data import DataContext

from glc_ray import render
from glc_ray.config import VideoJob
from glc_ray.job import build_job, video_name
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime import pipeline as graph
from glc_ray.runtime.arriving_latents import ArrivingLatents, NoMoreLatentsError
from glc_ray.runtime.board import Board
from glc_ray.runtime.denoiser import Denoiser
from glc_ray.runtime.farm import Farm
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.messages import Timings
from glc_ray.runtime.rows import ledger_of, video_id
from glc_ray.store.latents import save_latents
from glc_ray.store.manifest import VideoRecord
from glc_ray.store.output import Output
from glc_ray.store.paths import band_path, work_latents_path
from glc_ray.store.run_status import VideoProgress
from tests.cluster.farm import farm_of
from tests.conftest import write_tiny_pipeline

SHAPE_BFCHW = (1, 25, 4, 4, 6)
PATIENCE_S = 240
"""Of a test that would wait for ever."""
OPTIONS: dict[str, Any] = {
    "video.num_frames": 97,
    "sampling.num_steps": 2,
    "decode.segment": 4,
    "resources.decoders.count": 2,
}


class _Held(Denoiser):
    """Keeps the last window of the last step until the test lets go of the video."""

    def __init__(self, pipeline: Any, gates: str) -> None:
        super().__init__(pipeline)
        self._gates = Path(gates)

    def denoise(self, batch: Any, *arguments: Any) -> Any:
        forward = batch.forward
        if forward.step_index == 1 and 24 in forward.windows[-1].frames and forward.path == "local":
            gate = self._gates / forward.video
            until(gate.exists)
            if gate.read_text() == "fail":
                raise FloatingPointError("the last window is not finite")
        return super().denoise(batch, *arguments)


def until(is_so: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


class _Rendering:
    """Videos that are rendered one after the other, each held at its last window."""

    def __init__(self, farm: Farm, jobs: list[VideoJob], gates: Path, answer: Future[Any]) -> None:
        self.farm, self.jobs, self.gates, self.answer = farm, jobs, gates, answer
        self.output = Output(farm.output)

    def segments(self, job: VideoJob) -> dict[int, str]:
        return {index: entry.path for index, entry in ledger_of(self.output, job).done().items()}

    def wait_for_segments(self, job: VideoJob) -> None:
        """Until all are there that can be without the last window."""
        until(lambda: self.answer.done() or len(self.segments(job)) >= 3)
        assert not self.answer.done()
        assert self.gates.joinpath(job.specification_hash).exists() is False
        (standing,) = (one for one in self.in_work() if one.name == video_name(job))
        assert (standing.state, standing.steps_done) == ("denoising", 1)

    def in_work(self) -> tuple[VideoProgress, ...]:
        return ray.get(self.farm.board.in_work.remote())

    def let_go(self, job: VideoJob, how: str = "go") -> None:
        partial = self.gates / "partial"
        partial.write_text(how)
        partial.rename(self.gates / job.specification_hash)


@contextmanager
def rendering(jobs: list[VideoJob], folder: Path) -> Iterator[_Rendering]:
    output, gates = folder / "out", folder / "gates"
    Output(str(output)).prepare()
    gates.mkdir()
    pipeline = jobs[0].pipeline
    plan = graph.GraphPlan(
        pipeline,
        FilePlans(pipeline, len(jobs)),
        num_videos=len(jobs),
        num_at_once=1,
        keep_latents=False,
    )
    # Two workers, one for each path; the held window is the last of all.
    with farm_of(jobs[0], output, 2, _Held, str(gates)) as farm, ThreadPoolExecutor(1) as thread:

        def records() -> dict[str, VideoRecord]:
            # Ray Data gives up where no row moves for long, which is half an hour unless said.
            DataContext.get_current().execution_no_progress_timeout_s = 1
            made = graph.Graph(farm, plan).records(graph.Listed.of(*jobs), frozenset())
            return {record.prompt: record for record in made}

        one = _Rendering(farm, jobs, gates, thread.submit(records))
        try:
            yield one
        finally:
            for job in jobs:
                one.let_go(job)


@pytest.fixture
def pipeline_file(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    return write_tiny_pipeline(tmp_path, tiny_model("sincos"))


def test_segments_are_there_before_the_last_window_whatever_becomes_of_the_video(
    ray_cluster: None, pipeline_file: Path, tmp_path: Path
) -> None:
    """Cancelled, failed, and done after its coordinator was killed, while a decoder waits."""
    pipeline = load_pipeline(str(pipeline_file), OPTIONS.items())
    jobs = [build_job(pipeline, prompt, 0) for prompt in ("cancelled", "failed", "killed")]
    cancelled, failed, killed = jobs
    with rendering(jobs, tmp_path) as run:
        run.wait_for_segments(cancelled)
        ray.get(run.farm.board.cancel.remote([video_name(cancelled)], False))
        run.let_go(cancelled)

        run.wait_for_segments(failed)
        run.let_go(failed, "fail")

        run.wait_for_segments(killed)
        before = run.segments(killed)
        held_since = time.monotonic()
        (coordinator,) = ray.get(run.farm.board.coordinators.remote())
        first = ray.get(run.farm.board.arrival.remote(killed.specification_hash)).attempt
        ray.kill(coordinator, no_restart=False)
        until(lambda: attempt_of(run, killed) != first)
        held_s = time.monotonic() - held_since
        run.let_go(killed)
        records = run.answer.result(PATIENCE_S)

    assert (records["cancelled"].status, records["cancelled"].error) == (
        "cancelled",
        "cancelled while it was decoded; what is stored is kept",
    )
    assert records["failed"].status == "failed"
    assert "the last window is not finite" in records["failed"].error
    assert run.segments(failed).keys() >= {0, 1, 2}, "what is finished is kept"
    done = records["killed"]
    assert (done.status, done.error, done.num_frames) == ("done", "", 97)
    assert len(before) >= 3
    assert done.denoise_s > 0
    assert done.num_windows > 0
    assert done.decode_s < held_s, "waiting is no decoding"

    plain = render(
        pipeline=str(pipeline_file),
        prompt="killed",
        options=OPTIONS,
        seed=0,
        output=str(tmp_path / "plain"),
    )
    made, expected = tmp_path / "out" / done.path, tmp_path / "plain" / plain.path
    assert made.read_bytes() == expected.read_bytes()
    with av.open(str(made)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 97


def attempt_of(run: _Rendering, job: VideoJob) -> str:
    return ray.get(run.farm.board.arrival.remote(job.specification_hash)).attempt


class _Arriving:
    """One video's latents on a real board, and a decoder's view of them."""

    def __init__(self, job: VideoJob, folder: Path) -> None:
        self.job, self.output = job, Output(str(folder))
        self.output.prepare()
        self.board = ray.remote(Board).options(num_cpus=0).remote()
        generator = torch.Generator().manual_seed(0)
        self.latents = torch.randn(SHAPE_BFCHW, generator=generator)
        self.view = ArrivingLatents(self.output, self.board, job, SHAPE_BFCHW, leading=1)

    @property
    def video(self) -> str:
        return self.job.specification_hash

    def begin(self, attempt: str) -> None:
        ray.get(self.board.begin_latents.remote(self.video, attempt, 1))

    def add_band(self, attempt: str, start: int, stop: int) -> Path:
        path = band_path(video_id(self.job), attempt, start)
        save_latents(self.output, path, self.latents[:, start:stop], {})
        ray.get(self.board.add_band.remote(self.video, attempt, start, stop))
        return Path(self.output.uri(path))

    def complete(self) -> None:
        metadata = {"latents_hash": self.job.latents_hash}
        save_latents(self.output, work_latents_path(video_id(self.job)), self.latents, metadata)
        ray.get(self.board.complete.remote(self.video, Timings()))

    def check(self, start: int, stop: int) -> None:
        """Of the frames that are decoded, which are all but the first."""
        part = self.view[:, start:stop]
        assert torch.equal(part, self.latents[:, 1 + start : 1 + stop])


@pytest.fixture
def arriving(ray_cluster: None, pipeline_file: Path, tmp_path: Path) -> Iterator[_Arriving]:
    job = build_job(load_pipeline(str(pipeline_file), OPTIONS.items()), "a", 0)
    one = _Arriving(job, tmp_path / "out")
    yield one
    ray.kill(one.board)


def test_latents_are_those_of_bands_and_then_of_the_file(arriving: _Arriving) -> None:
    arriving.begin("one")
    arriving.add_band("one", 0, 8)
    assert arriving.view.shape == (1, 24, 4, 4, 6)
    arriving.check(0, 3)
    arriving.add_band("one", 8, 16)
    arriving.check(5, 9)
    # The coordinator died: the next one writes the same; a late word of the first is not heard.
    arriving.begin("other")
    arriving.add_band("one", 16, 24)
    assert ray.get(arriving.board.arrival.remote(arriving.video)).bands == ()
    for start in (0, 8, 16):
        arriving.add_band("other", start, start + 8)
    arriving.check(13, 17)
    assert arriving.view.waited_s < PATIENCE_S
    # The last band is missing, and comes.
    reading = ThreadPoolExecutor(1).submit(arriving.check, 21, 24)
    arriving.complete()
    reading.result(PATIENCE_S)
    arriving.check(0, 24)


def test_a_band_that_cannot_be_read_is_made_up_for_by_the_file(arriving: _Arriving) -> None:
    arriving.begin("one")
    arriving.add_band("one", 0, 8).unlink()
    band = arriving.add_band("one", 8, 16)
    reading = ThreadPoolExecutor(1).submit(arriving.check, 0, 12)
    band.write_bytes(b"torn")
    arriving.complete()
    reading.result(PATIENCE_S)


@pytest.mark.parametrize("status", ["failed", "cancelled"])
def test_who_waits_is_told_that_no_more_will_come(arriving: _Arriving, status: str) -> None:
    arriving.begin("one")
    arriving.add_band("one", 0, 8)
    arriving.check(0, 7)
    errors: list[NoMoreLatentsError] = []

    def wait() -> None:
        try:
            arriving.view[:, 7:9]
        except NoMoreLatentsError as error:
            errors.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    ray.get(arriving.board.fail.remote(arriving.video, status, "this is why"))
    waiting.join(PATIENCE_S)
    (error,) = errors
    assert (error.arrival.status, str(error)) == (status, "this is why")
    # Another run of the same video begins anew.
    arriving.begin("two")
    assert not ray.get(arriving.board.arrival.remote(arriving.video)).has_ended
