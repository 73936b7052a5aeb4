"""First stage of the Ray Data graph: a job to final latents, with a coordinator.

A row is one video. A stage never raises: a video that fails goes on as a row with its error, so
that the others are rendered.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Any, TypeAlias

import numpy as np
import ray
from ray.exceptions import RayError

from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.runtime.coordinator import Coordinator
from glc_ray.runtime.messages import Timings
from glc_ray.runtime.pool import reason

Row: TypeAlias = dict[str, Any]


def row_of(job: VideoJob, name: str) -> Row:
    """What enters the graph."""
    return {"job": job.model_dump_json(), "name": name}


class DenoiseStage:
    """Row of a job -> the same with ``latents`` (K, C, H, W) float32 and ``timings``.

    Owns one coordinator actor, which dies with it.
    """

    def __init__(self, pipeline: PipelineSpec, workers: list[Any], board: Any) -> None:
        resources = pipeline.resources.coordinators
        actor = ray.remote(Coordinator).options(
            num_cpus=resources.num_cpus, max_restarts=-1, max_task_retries=2
        )
        self._coordinator = actor.remote(workers, board, pipeline.fuse.threads)

    def __call__(self, row: Row) -> Row:
        job = VideoJob.model_validate_json(row["job"])
        row = {**row, "started": time.time(), "error": ""}
        try:
            latents, timings = ray.get(self._coordinator.denoise.remote(job, row["name"]))
        except RayError as error:
            latents, timings = np.zeros((1, 0, 0, 0, 0), np.float32), Timings()
            row["error"] = reason(error)
        return {**row, "latents": latents[0], "timings": json.dumps(asdict(timings))}
