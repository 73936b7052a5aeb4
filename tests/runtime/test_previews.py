"""What a coordinator and the previewer do, in one process; on real Ray: tests/cluster."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from PIL import Image
from ray.exceptions import ActorDiedError

from glc_ray.backbones import registry
from glc_ray.config import VideoJob
from glc_ray.media.preview_sheet import labels_of
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import ModelFacts, UserError
from glc_ray.runtime import denoiser, previewer
from glc_ray.runtime.board import Board
from glc_ray.runtime.farm import Farm
from glc_ray.runtime.messages import Preview
from glc_ray.runtime.metrics import Telemetry
from glc_ray.runtime.previewer import Previewer
from glc_ray.runtime.previews import Previews, columns
from glc_ray.sampler import LocalDenoiser, sample_job
from glc_ray.store.output import Output
from glc_ray.store.paths import preview_sheet_path
from glc_ray.store.run_status import VideoProgress


class Taken:
    """In the previewer's place: remembers what it is given, and answers when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_quick: bool = True) -> None:
        self.is_quick = is_quick
        self.error: Exception | None = None
        self.previews: list[Preview] = []
        self.add = self
        monkeypatch.setattr(ray, "wait", lambda asked, timeout: (asked * self.is_quick, []))
        monkeypatch.setattr(ray, "get", self._answer)

    def remote(self, preview: Preview, board: Any) -> int:
        self.previews.append(preview)
        return len(self.previews)

    def _answer(self, asked: int) -> None:
        if self.error is not None:
            raise self.error

    @property
    def steps(self) -> list[int]:
        return [preview.label.step for preview in self.previews]


def job_of(pipeline: Path, every: int, num_steps: int = 7) -> VideoJob:
    asked = [("preview.every", every), ("preview.frames", 3), ("sampling.num_steps", num_steps)]
    return VideoJob(prompt="a red ball", pipeline=load_pipeline(str(pipeline), asked))


def sample(job: VideoJob, previews: Previews | None) -> torch.Tensor:
    local = LocalDenoiser.of(job, torch.device("cpu"))
    if previews is None:
        return sample_job(job, local)
    return sample_job(
        job, local, on_step=previews.step, on_update=lambda result, _: previews.predicted(result)
    )


def previews_of(job: VideoJob, taken: Any) -> Previews:
    farm = Farm(output="", workers=(), pool=None, board=None, previewer=taken)
    return Previews(farm, job, "video", registry.facts(job.pipeline.model))


def test_every_third_step_and_the_last_are_shown_and_no_bit_changes(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, taken = job_of(tiny_pipeline, 3), Taken(monkeypatch)
    latents = sample(job, previews_of(job, taken))
    assert torch.equal(latents, sample(job_of(tiny_pipeline, 0), None))
    assert taken.steps == [3, 6, 7]
    # 33 frames are 9 latent frames.
    assert taken.previews[0].head.frames == (0, 13, 29)
    np.testing.assert_array_equal(taken.previews[-1].latents_BFCHW, latents[:, [0, 4, 8]].numpy())
    assert not np.shares_memory(taken.previews[-1].latents_BFCHW, latents.numpy())


def test_they_are_no_part_of_what_a_video_is(tiny_pipeline: Path) -> None:
    off, on = job_of(tiny_pipeline, 0), job_of(tiny_pipeline, 3)
    assert on.specification_hash == off.specification_hash
    assert on.latents_hash == off.latents_hash


def test_one_that_is_due_while_the_last_is_not_done_is_left_out(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, taken = job_of(tiny_pipeline, 1), Taken(monkeypatch, is_quick=False)
    sample(job, previews_of(job, taken))
    assert taken.steps == [1]


def test_failures_are_lines_in_the_log_and_the_third_in_a_row_the_end_of_them(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job, taken = job_of(tiny_pipeline, 1), Taken(monkeypatch)
    taken.error = ActorDiedError()
    with caplog.at_level(logging.WARNING):
        sample(job, previews_of(job, taken))
    assert taken.steps == [1, 2, 3]
    assert caplog.text.count("a preview failed, which the video does not mind") == 3
    assert "no more previews of this video: 3 failed in a row" in caplog.text


def test_none_without_a_previewer(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "wait", None)
    sample(job_of(tiny_pipeline, 1), previews_of(job_of(tiny_pipeline, 1), None))


@pytest.mark.parametrize(
    ("num_frames", "leading", "picks", "expected"),
    [
        (1, 0, 4, ((0, 0),)),
        (9, 0, 4, ((0, 0), (1, 1), (2, 5))),
        (145, 0, 4, ((0, 0), (12, 45), (24, 93), (36, 141))),
        # The last of 11 latent frames is denoised to be cut off.
        (37, 0, 2, ((0, 0), (9, 33))),
        (81, 1, 3, ((1, 0), (11, 37), (21, 77))),
        (145, 0, 1, ((0, 0),)),
    ],
)
def test_columns_are_spread_over_the_video(
    num_frames: int, leading: int, picks: int, expected: tuple[tuple[int, int], ...]
) -> None:
    model = ModelFacts(
        window_size=13,
        temporal_ratio=4,
        spatial_ratio=8,
        latent_channels=16,
        height=480,
        width=720,
        leading_latent_frames=leading,
    )
    assert columns(model, num_frames, picks) == expected


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """The previewer's process is this one: as kind as others, and without a GPU of Ray's."""
    monkeypatch.setattr(os, "nice", lambda increment: 0)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(denoiser, "assigned_device", lambda: torch.device("cpu"))


class Told:
    """In the board's place: calls it in this process."""

    def __init__(self, board: Board) -> None:
        self.previewed = self
        self._board = board

    def remote(self, *arguments: str) -> None:
        self._board.previewed(*arguments)


def test_the_last_row_is_what_diffusers_decodes_of_the_final_latents(
    no_ray: None,
    tiny_pipeline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from diffusers import AutoencoderKLCogVideoX

    job, taken, board = job_of(tiny_pipeline, 4), Taken(monkeypatch), Board()
    latents = sample(job, previews_of(job, taken))
    board.report(job.specification_hash, VideoProgress("video", "denoising"))
    actor = Previewer(str(tmp_path), job.pipeline, Telemetry())
    drawn: list[Image.Image] = []
    pictures = actor._pictures
    monkeypatch.setattr(actor, "_pictures", lambda one: drawn.extend(pictures(one)) or drawn[-3:])
    for preview in taken.previews:
        actor.add(preview, Told(board))
    (progress,) = board.in_work()
    assert progress.preview == preview_sheet_path("video") == "previews/video.png"
    sheet = Output(str(tmp_path)).read_bytes(progress.preview)
    assert sheet is not None
    assert [label.step for label in labels_of(sheet)] == [4, 7]
    folder = job.pipeline.model.path
    vae = AutoencoderKLCogVideoX.from_pretrained(folder, subfolder="vae").eval()
    for column, latent_frame in enumerate((0, 4, 8)):
        alone = latents[:, latent_frame : latent_frame + 1].permute(0, 2, 1, 3, 4)
        with torch.no_grad():
            decoded = vae.decode(alone / vae.config.scaling_factor).sample[0, :, 0]
        expected = (decoded * 0.5 + 0.5).clamp(0, 1).permute(1, 2, 0) * 255
        seen = np.asarray(drawn[3 + column], np.float32)
        # oneDNN's convolutions differ in the last bits: by a level where it rounds the other way.
        np.testing.assert_allclose(seen, expected.round().numpy(), atol=1)
    board.report(job.specification_hash, VideoProgress("video", "done"))
    board.previewed(job.specification_hash, progress.preview)
    assert board.in_work() == ()


def test_a_model_without_a_vae_says_so(
    no_ray: None, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, taken = job_of(tiny_pipeline, 7), Taken(monkeypatch)
    sample(job, previews_of(job, taken))
    lost = job.pipeline.model.model_copy(update={"path": "/nowhere"})
    actor = Previewer(str(tmp_path), job.pipeline.model_copy(update={"model": lost}), Telemetry())
    with pytest.raises(UserError, match="/nowhere"):
        actor.add(taken.previews[0], None)
    assert Output(str(tmp_path)).read_bytes(preview_sheet_path("video")) is None


def test_its_process_is_the_last_to_get_a_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(previewer.os, "nice", asked.append)
    Previewer(str(tmp_path), load_pipeline("toyworld"), Telemetry())
    assert asked == [19]
