"""A timeline on real Ray: the same bits as in this process, and one line of it for people."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import torch

from glc_ray import render
from glc_ray.config import VideoJob
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.sampler import LocalDenoiser, sample_job, torch_threads
from glc_ray.store import manifest
from glc_ray.store.output import Output
from tests.cluster.farm import farm_of, on_farm

TIMELINE = [(0, "a red ball at day"), (17, "a blue box at night")]
LINE = "0: a red ball at day | 17: a blue box at night"


def test_a_worker_mixes_prompts_as_the_in_process_loop_does(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    job = build_job(load_pipeline(str(tiny_pipeline)), TIMELINE, 5)
    with farm_of(job, tmp_path, 1) as farm:
        latents, _ = on_farm(farm, job)
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
