"""Previews beside a video that is denoised: their process dies, and the video is cancelled."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from ray.exceptions import RayTaskError

from glc_ray.config import VideoJob
from glc_ray.media.preview_sheet import labels_of
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.coordinator import start_coordinator
from glc_ray.runtime.errors import CancelledError
from glc_ray.runtime.farm import Farm
from glc_ray.runtime.metrics import Telemetry
from glc_ray.runtime.previewer import start_previewer
from glc_ray.store.output import Output
from tests.cluster.farm import farm_of

MANY_STEPS = 1000
"""More than are done before the video is cancelled."""


def rows(farm: Farm) -> list[int]:
    """Steps that the video's sheet shows, as soon as somebody is told where it is."""
    for video in ray.get(farm.board.in_work.remote()):
        if video.preview:
            sheet = Output(farm.output).read_bytes(video.preview)
            return [label.step for label in labels_of(sheet or b"")]
    return []


def wait_for_row_after(farm: Farm, step: int) -> list[int]:
    deadline = time.monotonic() + 240
    while (seen := rows(farm))[-1:] <= [step]:
        assert time.monotonic() < deadline, "no preview"
        time.sleep(0.1)
    return seen


def test_the_sheet_outlives_its_process_and_the_video_is_cancelled_early(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    asked = [("preview.every", 1), ("preview.frames", 2), ("sampling.num_steps", MANY_STEPS)]
    job = VideoJob(prompt="a red ball", pipeline=load_pipeline(str(tiny_pipeline), asked))
    with farm_of(job, tmp_path, 1) as alone:
        previewer = start_previewer(alone.output, job.pipeline, Telemetry())
        farm = replace(alone, previewer=previewer)
        coordinator = start_coordinator(farm)
        answer = coordinator.denoise.remote(job, "video")
        before = wait_for_row_after(farm, 0)
        ray.kill(previewer, no_restart=False)
        # Rows that came before it was dead are among those of now, too.
        now = wait_for_row_after(farm, rows(farm)[-1] + 1)
        assert now[: len(before)] == before
        farm.board.cancel.remote(["video"], False)
        with pytest.raises(RayTaskError) as caught:
            ray.get(answer)
        ray.kill(previewer)
    assert isinstance(caught.value.cause, CancelledError)
    sheet = Output(farm.output).read_bytes("previews/video.png")
    assert labels_of(sheet or b"")[-1].step < MANY_STEPS
