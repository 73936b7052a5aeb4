"""Workers that fail beside others that work: only what is at fault pays for it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.denoiser import Denoiser
from glc_ray.runtime.errors import DenoiseError
from tests.cluster.farm import farm_of, pool_denoiser, predictions


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
