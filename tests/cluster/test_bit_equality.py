"""Oracle 11: in this process, on 1 worker, on 3 workers, and when a worker dies: the same bits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from glc_ray.backbones import registry
from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.forwards import ForwardPlanner
from glc_ray.methods import registry as methods
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.board import Board
from glc_ray.runtime.coordinator import Coordinator
from glc_ray.runtime.denoiser import Denoiser
from glc_ray.runtime.pool import DenoiseError, PoolDenoiser
from glc_ray.sampler import LocalDenoiser, sample_job, torch_threads
from tests.tiny_wan import tiny_wan_job


@contextmanager
def actors(
    job: VideoJob, num_workers: int, kind: type = Denoiser, *arguments: Any
) -> Iterator[list[Any]]:
    pipeline = job.pipeline
    actor = ray.remote(kind).options(num_cpus=0, max_restarts=-1)
    workers = [actor.remote(pipeline, *arguments) for _ in range(num_workers)]
    try:
        yield workers
    finally:
        for worker in workers:
            ray.kill(worker)


def on_workers(job: VideoJob, workers: list[Any]) -> np.ndarray:
    board = ray.remote(Board).options(num_cpus=0).remote()
    coordinator = ray.remote(Coordinator).options(num_cpus=0).remote(workers, board, 1)
    latents, timings = ray.get(coordinator.denoise.remote(job, "video"))
    assert timings.num_windows > 0
    return latents


def in_process(job: VideoJob) -> np.ndarray:
    with torch_threads(job.pipeline.fuse.threads):
        return sample_job(job, LocalDenoiser.of(job, torch.device("cpu"))).numpy()


@pytest.fixture
def job(tiny_pipeline: Path) -> VideoJob:
    return VideoJob(prompt="a red ball", seed=5, pipeline=load_pipeline(str(tiny_pipeline)))


def check(job: VideoJob) -> None:
    """One worker and three give what the in-process loop gives."""
    expected = in_process(job)
    assert np.isfinite(expected).all()
    with actors(job, 3) as workers:
        for num_workers in (1, 3):
            assert np.array_equal(on_workers(job, workers[:num_workers]), expected), num_workers


def test_one_and_three_workers_equal_the_in_process_loop(ray_cluster: None, job: VideoJob) -> None:
    check(job)


@pytest.mark.parametrize("cache", ["cpu", "recompute"])
def test_wherever_anchors_are_kept(ray_cluster: None, tiny_pipeline: Path, cache: str) -> None:
    """The default, on the device, is in the test above."""
    spec = load_pipeline(str(tiny_pipeline), [("glc.abam.cache", cache)])
    job = VideoJob(prompt="a red ball", seed=5, pipeline=spec)
    check(job)


@pytest.mark.parametrize("method", ["glc", "freenoise"])
def test_a_stochastic_scheduler_rotary_positions_and_half_precision(
    ray_cluster: None, tiny_model: Callable[[str], Path], tiny_pipeline: Path, method: str
) -> None:
    """FreeNoise divides its one window within attention here."""
    options = [
        ("model.path", str(tiny_model("rotary"))),
        ("model.dtype", "bfloat16"),
        ("sampling.scheduler", "CogVideoXDPMScheduler"),
        ("method", method),
    ]
    spec = load_pipeline(str(tiny_pipeline), options)
    check(VideoJob(prompt="a red ball", seed=5, pipeline=spec))


def test_two_transformers_of_wan_and_a_multistep_scheduler(
    ray_cluster: None, tiny_wan: Callable[[str], Path]
) -> None:
    sampling = {"num_steps": 4, "guidance_scale": 3.0}
    check(tiny_wan_job(tiny_wan("two"), num_frames=33, sampling=sampling))


def test_embedded_model_on_two_workers_equals_the_in_process_loop(ray_cluster: None) -> None:
    """The real model: its matrices are large enough for thread counts to matter."""
    spec = load_pipeline("toyworld", [("video.num_frames", 41), ("sampling.num_steps", 2)])
    job = VideoJob(prompt=spec.prompt or "", seed=1, pipeline=spec)
    with actors(job, 2) as workers:
        assert np.array_equal(on_workers(job, workers), in_process(job))


def test_the_only_worker_dies_at_work_and_starts_slowly(
    ray_cluster: None, job: VideoJob, tmp_path: Path
) -> None:
    with actors(job, 1, _Mortal, tmp_path / "died") as workers:
        latents = on_workers(job, workers)
    assert (tmp_path / "died").exists()
    assert np.array_equal(latents, in_process(job))


def test_a_worker_with_a_broken_device_is_restarted(
    ray_cluster: None, job: VideoJob, tmp_path: Path
) -> None:
    with actors(job, 2, _Sick, tmp_path / "sick") as workers:
        latents = on_workers(job, workers)
    assert (tmp_path / "sick").exists()
    assert np.array_equal(latents, in_process(job))


def test_a_worker_that_dies_while_idle_rejoins(ray_cluster: None, job: VideoJob) -> None:
    with actors(job, 1) as workers:
        denoiser = pool_denoiser(job, workers)
        first = predictions(job, denoiser)
        ray.kill(workers[0], no_restart=False)
        assert torch.equal(predictions(job, denoiser), first)


def test_batch_that_always_fails_fails_its_video_with_step_and_windows(
    ray_cluster: None, job: VideoJob
) -> None:
    with actors(job, 1, _Failing) as workers:
        denoiser = pool_denoiser(job, workers)
        expected = r"step 0 \(timestep 999\), windows \[[0-9, ]+\]: failed 3 times: .*no kernel"
        with pytest.raises(DenoiseError, match=expected):
            predictions(job, denoiser)


def test_pool_that_cannot_load_its_model_says_why(ray_cluster: None, job: VideoJob) -> None:
    with (
        actors(job, 2, _Unloadable) as workers,
        pytest.raises(DenoiseError, match=r"no denoiser can start: .*disk is gone"),
    ):
        pool_denoiser(job, workers)


def pool_denoiser(job: VideoJob, workers: list[Any]) -> PoolDenoiser:
    return PoolDenoiser(workers, ForwardPlanner(job, registry.facts(job.pipeline.model)))


def predictions(job: VideoJob, denoiser: PoolDenoiser) -> torch.Tensor:
    """All window predictions of the first step."""
    facts = registry.facts(job.pipeline.model)
    plan = methods.create(job, facts).plan(0, 999)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(facts.latents_shape(job.pipeline.video.num_frames), generator=generator)
    return torch.cat([prediction for _, prediction in denoiser.denoise(latents, plan)])


class _Mortal(Denoiser):
    """Dies in its second forward, once; then takes longer to start than Ray waits by default."""

    def __init__(self, pipeline: PipelineSpec, flag: Path) -> None:
        super().__init__(pipeline)
        self.flag, self.calls = flag, 0
        if flag.exists():
            time.sleep(10)

    def denoise(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == 2 and not self.flag.exists():
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().denoise(*arguments)


class _Sick(Denoiser):
    """The first to start fails every forward until it is restarted."""

    def __init__(self, pipeline: PipelineSpec, flag: Path) -> None:
        super().__init__(pipeline)
        try:
            flag.touch(exist_ok=False)
            self.is_sick = True
        except FileExistsError:
            self.is_sick = False

    def denoise(self, *arguments: Any) -> Any:
        if self.is_sick:
            raise RuntimeError("CUDA error: device-side assert triggered")
        return super().denoise(*arguments)


class _Failing(Denoiser):
    def denoise(self, *arguments: Any) -> Any:
        raise RuntimeError("no kernel image is available")


class _Unloadable(Denoiser):
    def __init__(self, pipeline: PipelineSpec) -> None:
        raise OSError("the disk is gone")
