"""Oracle 11: in this process, on 1 worker, on 3 workers, and when a worker dies: the same bits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.denoiser import Denoiser
from glc_ray.runtime.errors import DenoiseError
from glc_ray.runtime.farm import start_farm
from glc_ray.sampler import LocalDenoiser, sample_job, torch_threads
from tests.cluster.farm import farm_of, on_farm, pool_denoiser, predictions
from tests.tiny_wan import tiny_wan_job


def in_process(job: VideoJob) -> np.ndarray:
    with torch_threads(job.pipeline.fuse.threads):
        return sample_job(job, LocalDenoiser.of(job, torch.device("cpu"))).numpy()


@pytest.fixture
def job(tiny_pipeline: Path) -> VideoJob:
    return VideoJob(prompt="a red ball", seed=5, pipeline=load_pipeline(str(tiny_pipeline)))


def assert_same_bits(job: VideoJob, output: Path) -> None:
    """One worker and three give what the in-process loop gives."""
    expected = in_process(job)
    assert np.isfinite(expected).all()
    with farm_of(job, output, 3) as farm:
        lone = start_farm(str(output), farm.workers[:1], job.pipeline.resources.denoisers)
        for some in (farm, lone):
            latents, timings = on_farm(some, job)
            assert timings.num_windows > 0
            assert np.array_equal(latents, expected), len(some.workers)


def test_one_and_three_workers_equal_the_in_process_loop(
    ray_cluster: None, job: VideoJob, tmp_path: Path
) -> None:
    assert_same_bits(job, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["cpu", "recompute"])
def test_wherever_anchors_are_kept(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path, cache: str
) -> None:
    """The default, on the device, is in the test above."""
    spec = load_pipeline(str(tiny_pipeline), [("glc.abam.cache", cache)])
    assert_same_bits(VideoJob(prompt="a red ball", seed=5, pipeline=spec), tmp_path)


@pytest.mark.parametrize("method", ["glc", pytest.param("freenoise", marks=pytest.mark.slow)])
def test_a_stochastic_scheduler_rotary_positions_and_half_precision(
    ray_cluster: None,
    tiny_model: Callable[[str], Path],
    tiny_pipeline: Path,
    tmp_path: Path,
    method: str,
) -> None:
    """FreeNoise divides its one window within attention here."""
    options = [
        ("model.path", str(tiny_model("rotary"))),
        ("model.dtype", "bfloat16"),
        ("sampling.scheduler", "CogVideoXDPMScheduler"),
        ("method", method),
    ]
    spec = load_pipeline(str(tiny_pipeline), options)
    assert_same_bits(VideoJob(prompt="a red ball", seed=5, pipeline=spec), tmp_path)


def test_two_transformers_of_wan_and_a_multistep_scheduler(
    ray_cluster: None, tiny_wan: Callable[[str], Path], tmp_path: Path
) -> None:
    sampling = {"num_steps": 4, "guidance_scale": 3.0}
    job = tiny_wan_job(tiny_wan("two"), num_frames=33, sampling=sampling)
    assert_same_bits(job, tmp_path)


def test_embedded_model_on_two_workers_equals_the_in_process_loop(
    ray_cluster: None, tmp_path: Path
) -> None:
    """The real model: its matrices are large enough for thread counts to matter."""
    spec = load_pipeline("toyworld", [("video.num_frames", 41), ("sampling.num_steps", 2)])
    job = VideoJob(prompt=spec.prompt or "", seed=1, pipeline=spec)
    with farm_of(job, tmp_path, 2) as farm:
        assert np.array_equal(on_farm(farm, job)[0], in_process(job))


def test_the_only_worker_dies_at_work_and_starts_slowly(
    ray_cluster: None, job: VideoJob, tmp_path: Path
) -> None:
    with farm_of(job, tmp_path, 1, _Mortal, tmp_path / "died") as farm:
        latents, _ = on_farm(farm, job)
    assert (tmp_path / "died").exists()
    assert np.array_equal(latents, in_process(job))


def test_a_worker_with_a_broken_device_is_restarted(
    ray_cluster: None, job: VideoJob, tmp_path: Path
) -> None:
    with farm_of(job, tmp_path, 2, _Sick, tmp_path / "sick") as farm:
        latents, _ = on_farm(farm, job)
    assert (tmp_path / "sick").exists()
    assert np.array_equal(latents, in_process(job))


def test_a_worker_that_dies_while_idle_rejoins(
    ray_cluster: None, job: VideoJob, tmp_path: Path
) -> None:
    with farm_of(job, tmp_path, 1) as farm:
        denoiser = pool_denoiser(job, farm)
        first = predictions(job, denoiser)
        ray.kill(farm.workers[0], no_restart=False)
        assert torch.equal(predictions(job, denoiser), first)


def test_batch_that_always_fails_fails_its_video_with_step_and_windows(
    ray_cluster: None, job: VideoJob, tmp_path: Path
) -> None:
    with farm_of(job, tmp_path, 1, _Failing) as farm:
        denoiser = pool_denoiser(job, farm)
        expected = r"step 0 \(timestep 999\), windows \[[0-9, ]+\]: failed 3 times: .*no kernel"
        with pytest.raises(DenoiseError, match=expected):
            predictions(job, denoiser)


def test_pool_that_cannot_load_its_model_says_why(
    ray_cluster: None, job: VideoJob, tmp_path: Path
) -> None:
    with (
        farm_of(job, tmp_path, 2, _Unloadable) as farm,
        pytest.raises(DenoiseError, match=r"no denoiser can start: .*disk is gone"),
    ):
        pool_denoiser(job, farm)


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
