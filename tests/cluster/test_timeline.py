"""A timeline on real Ray: the same bits as in this process, and one line of it for people."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import ray
import torch

from glc_ray import render
from glc_ray.config import VideoJob
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.board import Board
from glc_ray.runtime.coordinator import Coordinator
from glc_ray.runtime.pool import start_denoisers
from glc_ray.sampler import LocalDenoiser, sample_job, torch_threads
from glc_ray.store import manifest
from glc_ray.store.output import Output

TIMELINE = [(0, "a red ball at day"), (17, "a blue box at night")]
LINE = "0: a red ball at day | 17: a blue box at night"


@pytest.fixture
def workers(ray_cluster: None, tiny_pipeline: Path) -> Iterator[list[Any]]:
    actors = start_denoisers(load_pipeline(str(tiny_pipeline)))
    yield actors
    for actor in actors:
        ray.kill(actor)


def test_a_worker_mixes_prompts_as_the_in_process_loop_does(
    workers: list[Any], tiny_pipeline: Path
) -> None:
    job = build_job(load_pipeline(str(tiny_pipeline)), TIMELINE, 5)
    board = ray.remote(Board).options(num_cpus=0).remote()
    coordinator = ray.remote(Coordinator).options(num_cpus=0).remote(workers, board, 1)
    latents, _ = ray.get(coordinator.denoise.remote(job, "video"))
    with torch_threads(job.pipeline.fuse.threads):
        expected = sample_job(job, LocalDenoiser.of(job, torch.device("cpu"))).numpy()
    assert np.array_equal(latents, expected)


def test_file_and_manifest_say_what_the_video_shows(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    record = render(TIMELINE, pipeline=str(tiny_pipeline), steps=1, output=str(output))
    assert (record.prompt, record.status) == (LINE, "done")
    assert record.name.startswith("0-a-red-ball-at-day-17-a-blue-box-at-night-")
    assert manifest.read(Output(str(output))) == [record]
    again = VideoJob.model_validate_json(record.specification)
    assert [(prompt.at_frame, prompt.text) for prompt in again.timeline] == TIMELINE
    with av.open(str(output / record.path)) as container:
        assert container.metadata["title"] == LINE
