"""First stage of the Ray Data graph: a job to stored latents, and rows that divide their decode."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.media.decode_plan import DecodePlan
from glc_ray.media.stretch import stretches
from glc_ray.protocols import UserError
from glc_ray.runtime.coordinator import Coordinator
from glc_ray.runtime.messages import Timings
from glc_ray.runtime.pool import reason
from glc_ray.runtime.rows import Row, job_of, ledger_of, stretch_row, video_id
from glc_ray.store.latents import read_header, save_latents
from glc_ray.store.output import Output
from glc_ray.store.paths import work_latents_path


class DenoiseStage:
    """Row of a job -> rows of its stretches; its latents are stored.

    Owns one coordinator actor, which dies with it. A video whose latents are stored already, by a
    run that was killed later on, is not denoised again, and only segments that are missing are
    handed on.
    """

    def __init__(
        self,
        pipeline: PipelineSpec,
        output: str,
        workers: list[Any],
        board: Any,
        decode_plan: DecodePlan,
    ) -> None:
        resources = pipeline.resources.coordinators
        actor = ray.remote(Coordinator).options(
            num_cpus=resources.num_cpus, max_restarts=-1, max_task_retries=2
        )
        self._coordinator = actor.remote(workers, board, pipeline.fuse.threads)
        self._output = Output(output)
        self._decode_plan = decode_plan

    def __call__(self, row: Row) -> Iterator[Row]:
        job, row = job_of(row), {**row, "started": time.time()}
        try:
            timings = Timings() if self._is_stored(job) else self._denoise(job, row["name"])
            yield from self._stretches(job, row, timings)
        except RayError as error:
            yield stretch_row(row, error=reason(error))
        except Exception as error:
            yield stretch_row(row, error=f"latents: {type(error).__name__}: {error}")

    def _is_stored(self, job: VideoJob) -> bool:
        try:
            header = read_header(self._output, work_latents_path(video_id(job)))
        except UserError:
            # None, or torn: they are denoised (again).
            return False
        return header.metadata.get("latents_hash") == job.latents_hash

    def _denoise(self, job: VideoJob, name: str) -> Timings:
        latents, timings = ray.get(self._coordinator.denoise.remote(job, name))
        metadata = {
            "job": job.model_dump_json(),
            "specification_hash": job.specification_hash,
            "latents_hash": job.latents_hash,
        }
        # Zero-copy and read-only, and so are all its readers.
        tensor = torch.tensor(latents)
        save_latents(self._output, work_latents_path(video_id(job)), tensor, metadata)
        return timings

    def _stretches(self, job: VideoJob, row: Row, timings: Timings) -> Iterator[Row]:
        ledger, plan = ledger_of(self._output, job), self._decode_plan
        ledger.forget_other_settings()
        done = {index for index, entry in ledger.done().items() if ledger.valid(entry)}
        missing = [segment for segment in plan.segments if segment.index not in done]
        runs = stretches(missing, len(plan.stretches), warmup=plan.warmup) or ((),)
        for index, run in enumerate(runs):
            wanted = tuple(segment.index for segment in run)
            yield stretch_row(row, index=index, count=len(runs), segments=wanted, timings=timings)
