"""Denoisers, a pool and a coordinator, without the graph around them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch

from glc_ray.backbones import registry
from glc_ray.config import DenoiserResources, VideoJob
from glc_ray.forwards import ForwardPlanner
from glc_ray.methods import registry as methods
from glc_ray.runtime.coordinator import start_coordinator
from glc_ray.runtime.denoiser import Denoiser
from glc_ray.runtime.farm import Farm, start_farm
from glc_ray.runtime.messages import Timings
from glc_ray.runtime.pool_denoiser import PoolDenoiser
from glc_ray.runtime.rows import video_id
from glc_ray.store.latents import load_latents
from glc_ray.store.output import Output
from glc_ray.store.paths import work_latents_path


@contextmanager
def farm_of(
    job: VideoJob,
    output: Path,
    num_workers: int,
    kind: type = Denoiser,
    *arguments: Any,
    resources: DenoiserResources | None = None,
) -> Iterator[Farm]:
    """A pool of ``kind(pipeline, *arguments)`` actors."""
    actor = ray.remote(kind).options(num_cpus=0, max_restarts=-1)
    workers = [actor.remote(job.pipeline, *arguments) for _ in range(num_workers)]
    farm = start_farm(str(output), workers, resources or job.pipeline.resources.denoisers)
    try:
        yield farm
    finally:
        for one in (farm.pool, *farm.workers, farm.board):
            ray.kill(one)


def on_farm(farm: Farm, job: VideoJob, threads: int = 1) -> tuple[np.ndarray, Timings]:
    """What a coordinator makes of ``job``, and what it took."""
    timings = ray.get(start_coordinator(farm, threads=threads).denoise.remote(job, "video"))
    return latents_of(farm, job), timings


def latents_of(farm: Farm, job: VideoJob) -> np.ndarray:
    """The stored latents of a job that was denoised."""
    latents, _ = load_latents(Output(farm.output), work_latents_path(video_id(job)))
    return latents.numpy()


def pool_denoiser(job: VideoJob, farm: Farm) -> PoolDenoiser:
    """What the sampler is given."""
    planner = ForwardPlanner(job, registry.facts(job.pipeline.model))
    return PoolDenoiser(farm.pool, farm.workers, planner)


def predictions(job: VideoJob, denoiser: PoolDenoiser) -> torch.Tensor:
    """All window predictions of the first step."""
    facts = registry.facts(job.pipeline.model)
    plan = methods.create(job, facts).plan(0, 999)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(facts.latents_shape(job.pipeline.video.num_frames), generator=generator)
    return torch.cat([prediction for _, prediction in denoiser.denoise(latents, plan)])
