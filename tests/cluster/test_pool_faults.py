"""Workers that fail beside others that work: only what is at fault pays for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from glc_ray.config import DenoiserResources, PipelineSpec, VideoJob
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.coordinator import start_coordinator
from glc_ray.runtime.denoiser import Denoiser
from glc_ray.runtime.errors import DenoiseError
from glc_ray.sampler import LocalDenoiser, sample_job, torch_threads
from tests.cluster.farm import farm_of, latents_of, pool_denoiser, predictions


def test_workers_that_died_unseen_are_not_held_against_a_window(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """Direct has one window a step: three dead workers would be its three failures."""
    spec = load_pipeline(str(tiny_pipeline), [("method", "direct")])
    job = VideoJob(prompt="a red ball", seed=5, pipeline=spec)
    with farm_of(job, tmp_path, 4) as farm:
        denoiser = pool_denoiser(job, farm)
        first = predictions(job, denoiser)
        for worker in farm.workers[:3]:
            ray.kill(worker, no_restart=False)
        assert torch.equal(predictions(job, denoiser), first)


def test_a_worker_that_cannot_start_does_not_stop_one_that_works(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    job = VideoJob(prompt="a red ball", pipeline=load_pipeline(str(tiny_pipeline)))
    with farm_of(job, tmp_path, 2, _OneStarts, tmp_path / "started") as farm:
        assert torch.isfinite(predictions(job, pool_denoiser(job, farm))).all()


def test_nan_fails_the_video_at_once_and_spares_the_worker(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    job = VideoJob(prompt="a red ball", pipeline=load_pipeline(str(tiny_pipeline)))
    with farm_of(job, tmp_path, 1, _Poisoned) as farm:
        denoiser = pool_denoiser(job, farm)
        before = ray.get(farm.workers[0].pid.remote())
        with pytest.raises(DenoiseError, match=r"step 0 .* windows \[\d\]: .*NaN or infinite"):
            predictions(job, denoiser)
        assert ray.get(farm.workers[0].pid.remote()) == before


class _OneStarts(Denoiser):
    """The first works slowly; the others fail to load while it does."""

    def __init__(self, pipeline: PipelineSpec, flag: Path) -> None:
        try:
            flag.touch(exist_ok=False)
        except FileExistsError:
            time.sleep(2)
            raise OSError("the disk is gone") from None
        super().__init__(pipeline)

    def denoise(self, *arguments: Any) -> Any:
        time.sleep(1)
        return super().denoise(*arguments)


class _Poisoned(Denoiser):
    """Its weights hold a NaN."""

    def __init__(self, pipeline: PipelineSpec) -> None:
        super().__init__(pipeline)
        backbone: Any = self.backbone
        backbone.transformer.proj_out.bias.fill_(float("nan"))

    def pid(self) -> int:
        import os

        return os.getpid()


def test_a_worker_that_does_not_answer_is_replaced(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    job = VideoJob(prompt="a red ball", pipeline=load_pipeline(str(tiny_pipeline)))
    impatient = DenoiserResources(patience=2, least_patience_s=4)
    with farm_of(job, tmp_path, 2, _Wedged, tmp_path / "asleep", resources=impatient) as farm:
        assert torch.isfinite(predictions(job, pool_denoiser(job, farm))).all()
        assert ray.get(farm.pool.occupancy.remote()).restarts == 1


def test_a_batch_that_has_no_room_on_the_device_is_halved(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """The halves may differ in the last bits, and so they are counted."""
    spec = load_pipeline(str(tiny_pipeline), [("denoise.batch_size", 4)])
    job = VideoJob(prompt="a red ball", pipeline=spec)
    with farm_of(job, tmp_path / "roomy", 1) as farm:
        roomy = pool_denoiser(job, farm)
        expected = predictions(job, roomy)
    with farm_of(job, tmp_path / "narrow", 1, _Narrow) as farm:
        narrow = pool_denoiser(job, farm)
        assert torch.allclose(predictions(job, narrow), expected, atol=1e-5)
    assert roomy.halved_batches == 0
    assert narrow.halved_batches > 0


@pytest.mark.slow
def test_two_videos_share_a_pool_and_get_the_bits_of_each_alone(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    spec = load_pipeline(str(tiny_pipeline))
    jobs = [VideoJob(prompt="a red ball", seed=seed, pipeline=spec) for seed in (1, 2)]
    with farm_of(jobs[0], tmp_path, 2) as farm:
        coordinators = [start_coordinator(farm) for _ in jobs]
        pairs = zip(coordinators, jobs, strict=True)
        ray.get([one.denoise.remote(job, f"video {job.seed}") for one, job in pairs])
        together = [latents_of(farm, job) for job in jobs]
    for job, latents in zip(jobs, together, strict=True):
        with torch_threads(1):
            alone = sample_job(job, LocalDenoiser.of(job, torch.device("cpu")))
        assert np.array_equal(latents, alone.numpy())


class _Wedged(Denoiser):
    """The first to be asked falls asleep for good."""

    def __init__(self, pipeline: PipelineSpec, flag: Path) -> None:
        super().__init__(pipeline)
        self._flag = flag

    def denoise(self, *arguments: Any) -> Any:
        try:
            self._flag.touch(exist_ok=False)
        except FileExistsError:
            return super().denoise(*arguments)
        time.sleep(3600)


class _Narrow(Denoiser):
    """A device with room for one clip."""

    def __init__(self, pipeline: PipelineSpec) -> None:
        super().__init__(pipeline)
        predict = self.backbone.predict

        def narrow(clips_BFCHW: torch.Tensor, *arguments: Any) -> torch.Tensor:
            if len(clips_BFCHW) > 1:
                raise torch.OutOfMemoryError("no room for more than one clip")
            return predict(clips_BFCHW, *arguments)

        self.backbone.predict = narrow  # type: ignore[method-assign]
