"""First stage of the Ray Data graph: a job to stored latents, and rows that divide their decode."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.media.stretch import stretches
from glc_ray.protocols import UserError
from glc_ray.runtime.coordinator import await_coordinator, start_coordinator
from glc_ray.runtime.errors import CancelledError, reason
from glc_ray.runtime.farm import Farm
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.messages import Timings
from glc_ray.runtime.rows import Row, job_of, ledger_of, stretch_row, video_id
from glc_ray.store.latents import read_header
from glc_ray.store.output import Output
from glc_ray.store.paths import work_latents_path

_ANSWER_S = 10.0
_MAX_LOSSES = 5
"""Of the coordinator or the pool in one video, before the video fails."""


class DenoiseStage:
    """Row of a job -> rows of its stretches; its latents are stored.

    Owns one coordinator actor, which dies with it. A video whose latents are stored already, by a
    run that was killed later on, is not denoised again, and only segments that are missing are
    handed on.
    """

    def __init__(self, farm: Farm, pipeline: PipelineSpec, plans: FilePlans) -> None:
        self._coordinator = start_coordinator(
            farm, pipeline.resources.coordinators, threads=pipeline.fuse.threads
        )
        self._farm = farm
        self._output = Output(farm.output)
        self._plans = plans

    def __call__(self, row: Row) -> Iterator[Row]:
        job, row = job_of(row), {**row, "started": time.time()}
        try:
            if ray.get(self._farm.board.is_cancelled.remote(row["name"])):
                raise CancelledError("cancelled before it began")
            timings = Timings() if self._is_stored(job) else self._denoise(job, row)
            yield from self._stretches(job, row, timings)
        except CancelledError as error:
            yield stretch_row(row, error=str(error), status="cancelled")
        except RayError as error:
            yield stretch_row(row, error=reason(error), log=self._log_file(error))
        except Exception as error:
            yield stretch_row(row, error=f"latents: {type(error).__name__}: {error}")

    def _log_file(self, error: RayError) -> str:
        """Where the coordinator tells more of its failure; where it is lost, nobody knows."""
        if not isinstance(error, RayTaskError):
            return ""
        with suppress(RayError):
            return str(ray.get(self._coordinator.log_file.remote(), timeout=_ANSWER_S))
        return ""

    def _is_stored(self, job: VideoJob) -> bool:
        try:
            header = read_header(self._output, work_latents_path(video_id(job)))
        except UserError:
            # None, or torn: they are denoised (again).
            return False
        return header.metadata.get("latents_hash") == job.latents_hash

    def _denoise(self, job: VideoJob, row: Row) -> Timings:
        """Have the coordinator denoise; should it die, it goes on from its last checkpoint.

        Raises:
            CancelledError: somebody asked for the video's end.
            RayError: it failed.
        """
        losses = 0
        while True:
            try:
                denoise = self._coordinator.denoise
                return ray.get(denoise.remote(job, row["name"], row["priority"], losses + 1))
            except RayTaskError as error:
                if isinstance(error.cause, CancelledError):
                    raise error.cause from None
                losses += 1
                if not isinstance(error.cause, RayActorError) or losses == _MAX_LOSSES:
                    raise
            except RayActorError:
                # Nobody fetches what the pool grants the video until it is opened again, if ever.
                self._farm.pool.close.remote(job.specification_hash)
                losses += 1
                if losses == _MAX_LOSSES:
                    raise
                self._farm.board.note.remote(
                    f"{row['name']}: its coordinator is lost and is started anew; the video goes "
                    "on from its last checkpoint"
                )
                await_coordinator(self._coordinator)

    def _stretches(self, job: VideoJob, row: Row, timings: Timings) -> Iterator[Row]:
        ledger, plan = ledger_of(self._output, job), self._plans.of(job.pipeline).decode
        ledger.forget_other_settings()
        done = {index for index, entry in ledger.done().items() if ledger.valid(entry)}
        missing = [segment for segment in plan.segments if segment.index not in done]
        runs = stretches(missing, len(plan.stretches), warmup=plan.warmup) or ((),)
        for index, run in enumerate(runs):
            wanted = tuple(segment.index for segment in run)
            yield stretch_row(row, index=index, count=len(runs), segments=wanted, timings=timings)
