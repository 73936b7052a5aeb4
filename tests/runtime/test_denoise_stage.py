"""Which videos are denoised: the stage in this process, and nobody who would denoise."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch

from glc_ray.config import VideoJob
from glc_ray.runtime import denoise_stage as module
from glc_ray.runtime.board import Board
from glc_ray.runtime.denoise_stage import DenoiseStage
from glc_ray.runtime.farm import Farm
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.messages import Timings
from glc_ray.runtime.rows import Row, ledger_of, row_of, video_id
from glc_ray.runtime.stored_latents import store_timings
from glc_ray.sampler import torch_threads
from glc_ray.store.output import Output
from glc_ray.store.paths import latents_path, work_latents_path
from tests.runtime.in_process import Handle, decode_stage_of, decoded, tiny_job, without_ray

TOOK = Timings(denoise_s=2.5, num_windows=18, resumed_at_step=1)


@pytest.fixture(autouse=True)
def own_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    without_ray(monkeypatch)
    monkeypatch.setattr(module, "start_coordinator", lambda *_, **__: None)
    # An actor sets them for its process, which here is that of other tests, too.
    with torch_threads(torch.get_num_threads()):
        yield


class _Counted(DenoiseStage):
    """Counts what it would have denoised."""

    denoised = 0

    def _denoise(self, job: VideoJob, row: Row) -> Generator[int, None, Timings]:
        self.denoised += 1
        yield 0
        return Timings()


class _Video:
    """Decoded by a run that was killed before anybody knew."""

    def __init__(self, folder: Path, pipeline: Path) -> None:
        self.place = Output(str(folder / "out"))
        self.place.prepare()
        self.job = tiny_job(pipeline)
        self._plans = FilePlans(self.job.pipeline)
        decoded(decode_stage_of(self.place, self.job, self._plans), self.job, self._plans)
        self.board = Board()

    def again(self, *, keep_latents: bool) -> tuple[int, list[Row]]:
        """Videos that were denoised, and rows for decoders."""
        farm = Farm(self.place.location, None, (), Handle(self.board))
        stage = _Counted(farm, self.job.pipeline, self._plans, 1, keep_latents)
        rows = list(stage(row_of(self.job, "video")))
        return stage.denoised, rows


@pytest.fixture
def video(tmp_path: Path, tiny_pipeline: Path) -> _Video:
    return _Video(tmp_path, tiny_pipeline)


@pytest.mark.parametrize("keep_latents", [False, True])
def test_a_video_whose_segments_are_all_there_is_not_denoised(
    video: _Video, keep_latents: bool
) -> None:
    if keep_latents:
        # Where the join puts them, which was not the last that it did.
        video.place.move(work_latents_path(video_id(video.job)), latents_path("video"))
    else:
        video.place.delete(work_latents_path(video_id(video.job)))
    store_timings(video.place, video.job, TOOK)
    num_denoised, rows = video.again(keep_latents=keep_latents)
    assert num_denoised == 0
    assert video.board.arrival(video.job.specification_hash).timings == TOOK
    assert [(row["segments"], row["error"]) for row in rows] == [("[]", "")]


def test_latents_that_are_to_be_kept_are_made(video: _Video) -> None:
    video.place.delete(work_latents_path(video_id(video.job)))
    assert video.again(keep_latents=True)[0] == 1


def test_latents_of_a_segment_that_is_missing_are_made(video: _Video) -> None:
    video.place.delete(work_latents_path(video_id(video.job)))
    ledger = ledger_of(video.place, video.job)
    video.place.delete(ledger.done()[1].path)
    num_denoised, rows = video.again(keep_latents=False)
    assert num_denoised == 1
    assert [row["segments"] for row in rows] == ["[1]"]
