"""The coordinator actor: fusion, gamma, scheduler steps and refinement of one video at a time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from glc_ray.backbones.registry import facts
from glc_ray.config import VideoJob
from glc_ray.forwards import ForwardPlanner
from glc_ray.runtime.messages import Timings, VideoProgress
from glc_ray.runtime.pool import PoolDenoiser
from glc_ray.sampler import StepReport, sample_job


class Coordinator:
    """Drives the sampling loop of a video with the pool's workers.

    Args:
        workers: handles of the denoiser actors.
        board: handle of the progress board.
        threads: CPU threads for the mathematics on the full latents.
    """

    def __init__(self, workers: list[Any], board: Any, threads: int) -> None:
        torch.set_num_threads(threads)
        self._workers = workers
        self._board = board

    def denoise(self, job: VideoJob, name: str) -> tuple[np.ndarray, Timings]:
        """Noise to clean latents: (1, K, C, H, W) float32 and what it took.

        Raises:
            DenoiseError: a window cannot be computed.
        """
        progress = _Progress(self._board, job, name)
        progress.loading()
        start = time.perf_counter()
        denoiser = PoolDenoiser(
            self._workers,
            ForwardPlanner(job, facts(job.pipeline.model)),
            on_windows=progress.windows,
        )
        prompt_s = time.perf_counter() - start
        latents = sample_job(job, denoiser, on_step=progress.step)
        timings = Timings(
            prompt_s=prompt_s,
            denoise_s=sum(step.denoise_s for step in progress.steps),
            fuse_s=sum(step.fuse_s for step in progress.steps),
            update_s=sum(step.update_s for step in progress.steps),
            forward_s=denoiser.forward_s,
            num_windows=denoiser.num_windows,
            anchor_forwards=denoiser.anchor_forwards,
        )
        return latents.numpy(), timings


class _Progress:
    """Tells the board; never waits for it."""

    def __init__(self, board: Any, job: VideoJob, name: str) -> None:
        self.steps: list[StepReport] = []
        self._board = board
        self._key = job.specification_hash
        self._name = name
        self._num_steps = job.pipeline.sampling.num_steps

    def loading(self) -> None:
        self._board.report.remote(self._key, VideoProgress(self._name, "loading"))

    def windows(self, done: int, total: int) -> None:
        self._tell(windows_done=done, num_windows=total)

    def step(self, report: StepReport, latents: torch.Tensor) -> None:
        self.steps.append(report)
        self._tell(windows_done=0, num_windows=report.num_windows)

    def _tell(self, *, windows_done: int, num_windows: int) -> None:
        progress = VideoProgress(
            name=self._name,
            state="denoising",
            steps_done=len(self.steps),
            num_steps=self._num_steps,
            windows_done=windows_done,
            num_windows=num_windows,
        )
        self._board.report.remote(self._key, progress)
