"""A video goes on where it was: after its coordinator died, and after somebody stopped it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from glc_ray.config import VideoJob
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.coordinator import await_coordinator, checkpoint_now, start_coordinator
from glc_ray.runtime.denoiser import Denoiser
from glc_ray.runtime.errors import CancelledError
from glc_ray.runtime.farm import Farm
from glc_ray.runtime.rows import video_id
from glc_ray.runtime.stored_latents import stored_timings
from glc_ray.sampler import LocalDenoiser, sample_job, torch_threads
from glc_ray.store import checkpoint as checkpoints
from glc_ray.store.output import Output
from tests.cluster.farm import farm_of, latents_of

STEPS = 6


@pytest.fixture
def job(tiny_model: Any, tiny_pipeline: Path) -> VideoJob:
    """With a scheduler that remembers and one that draws noise, whose states must be kept."""
    options = [
        ("model.path", str(tiny_model("rotary"))),
        ("sampling.num_steps", STEPS),
        ("sampling.scheduler", "CogVideoXDPMScheduler"),
        ("resources.checkpoint.max_share", 1),
    ]
    return VideoJob(
        prompt="a red ball", seed=5, pipeline=load_pipeline(str(tiny_pipeline), options)
    )


def in_process(job: VideoJob) -> np.ndarray:
    with torch_threads(1):
        return sample_job(job, LocalDenoiser.of(job, torch.device("cpu"))).numpy()


def steps_stored(farm: Farm, job: VideoJob) -> int:
    found = checkpoints.load_latest(Output(farm.output), video_id(job), job.latents_hash)
    return 0 if found is None else found.step_index


def wait_for_step(farm: Farm, job: VideoJob, step: int) -> None:
    deadline = time.monotonic() + 120
    while steps_stored(farm, job) < step:
        assert time.monotonic() < deadline, "no checkpoint"
        time.sleep(0.02)


def test_a_dead_coordinators_video_goes_on_at_its_last_step(
    ray_cluster: None, job: VideoJob, tmp_path: Path
) -> None:
    with farm_of(job, tmp_path, 2, _Slow) as farm:
        coordinator = start_coordinator(farm)
        answer = coordinator.denoise.remote(job, "video")
        wait_for_step(farm, job, 2)
        ray.kill(coordinator, no_restart=False)
        with pytest.raises(RayActorError):
            ray.get(answer)
        stored = steps_stored(farm, job)
        await_coordinator(coordinator)
        timings = ray.get(coordinator.denoise.remote(job, "video"))
        latents = latents_of(farm, job)
        assert stored_timings(Output(farm.output), job) == timings
    assert timings.resumed_at_step == stored >= 2
    a_step, rest = divmod(timings.num_windows, STEPS)
    assert rest < a_step, "windows of all steps are counted, those before the crash among them"
    assert np.array_equal(latents, in_process(job))
    assert checkpoints.load_latest(Output(farm.output), video_id(job), job.latents_hash) is None


def test_a_pool_and_a_board_that_die_are_started_anew_and_the_step_goes_on(
    ray_cluster: None, job: VideoJob, tmp_path: Path
) -> None:
    with farm_of(job, tmp_path, 2, _Slow) as farm:
        coordinator = start_coordinator(farm)
        answer = coordinator.denoise.remote(job, "video")
        wait_for_step(farm, job, 2)
        for actor in (farm.pool, farm.board):
            ray.kill(actor, no_restart=False)
        timings = ray.get(answer)
        assert np.array_equal(latents_of(farm, job), in_process(job))
        assert timings.resumed_at_step == 0
        assert timings.num_windows % STEPS == 0
        told = [line for actor in (farm.pool, farm.board) for line in notices(actor)]
    assert [line.partition(" and ")[0] for line in told] == ["the pool died", "the board died"]


def notices(actor: Any) -> list[str]:
    return ray.get(actor.notices.remote())


@pytest.mark.slow
def test_a_checkpoint_is_made_when_it_is_asked_for(
    ray_cluster: None, job: VideoJob, tmp_path: Path
) -> None:
    """As when the run is told to stop: otherwise this one would make none."""
    resources = {**job.pipeline.resources.model_dump(), "checkpoint": {"max_share": 0}}
    pipeline = job.pipeline.model_validate({**job.pipeline.model_dump(), "resources": resources})
    job = job.model_copy(update={"pipeline": pipeline})
    with farm_of(job, tmp_path, 1, _Slow) as farm:
        coordinator = start_coordinator(farm)
        answer = coordinator.denoise.remote(job, "video")
        deadline = time.monotonic() + 120
        while not steps_stored(farm, job):
            assert time.monotonic() < deadline
            ray.get(checkpoint_now(coordinator))
            time.sleep(0.2)
        ray.get(answer)


def test_a_cancelled_video_frees_the_pool_at_the_next_step(
    ray_cluster: None, job: VideoJob, tmp_path: Path
) -> None:
    other = job.model_copy(update={"seed": 6})
    with farm_of(job, tmp_path, 1, _Slow) as farm:
        coordinator = start_coordinator(farm)
        answer = coordinator.denoise.remote(job, "unwanted")
        wait_for_step(farm, job, 1)
        ray.get(farm.board.cancel.remote(["unwanted"], False))
        with pytest.raises(RayTaskError) as failure:
            ray.get(answer)
        assert isinstance(failure.value.cause, CancelledError)
        # Of the step that it ended with nothing is lost.
        assert str(failure.value.cause) == f"cancelled after step {steps_stored(farm, job) - 1}"
        ray.get(coordinator.denoise.remote(other, "wanted"))
        assert np.array_equal(latents_of(farm, other), in_process(other))


class _Slow(Denoiser):
    def denoise(self, *arguments: Any) -> Any:
        time.sleep(0.05)
        return super().denoise(*arguments)
