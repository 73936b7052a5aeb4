"""First stage of the Ray Data graph: a job to stored latents, and rows that divide their decode.

A row goes out when the first latents of its stretch are stored, in the video's last step, if a
decoder is free for it; otherwise when all of them are.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator, Iterator
from contextlib import suppress

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.media.stretch import Segment, stretches
from glc_ray.runtime.arrivals import Division
from glc_ray.runtime.coordinator import await_coordinator, start_coordinator
from glc_ray.runtime.errors import CancelledError, reason
from glc_ray.runtime.farm import Farm
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.messages import Timings
from glc_ray.runtime.rows import Row, job_of, ledger_of, stretch_row, video_id
from glc_ray.runtime.stored_latents import are_kept, are_stored, stored_timings
from glc_ray.store.output import Output
from glc_ray.store.paths import bands_path

_ANSWER_S = 10.0
_LOOK_S = 0.5
"""Between two looks at what of a video is stored."""
_MAX_LOSSES = 5
"""Of the coordinator or the pool in one video, before the video fails."""


class DenoiseStage:
    """Row of a job -> rows of its stretches; its latents are stored.

    Owns one coordinator actor, which dies with it. A video whose latents are stored already, by a
    run that was killed later on, is not denoised again, and only segments that are missing are
    handed on. Where none is, latents are missed only if they are to be kept.
    """

    def __init__(
        self,
        farm: Farm,
        pipeline: PipelineSpec,
        plans: FilePlans,
        num_decoders: int,
        keep_latents: bool,
    ) -> None:
        self._coordinator = start_coordinator(
            farm, pipeline.resources.coordinators, threads=pipeline.fuse.threads
        )
        self._num_decoders = num_decoders
        self._farm = farm
        self._output = Output(farm.output)
        self._plans = plans
        self._keep_latents = keep_latents

    def __call__(self, row: Row) -> Iterator[Row]:
        job, row = job_of(row), {**row, "started": time.time()}
        board, video = self._farm.board, job.specification_hash
        division: Division = ray.get(board.division.remote(video))
        num_sent = 0
        failure: dict[str, str] = {}
        try:
            if ray.get(board.is_cancelled.remote(row["name"])):
                raise CancelledError("cancelled before it began")
            missing = self._missing(job)
            division = self._divide(job, missing)
            for num_frames in self._latents(job, row, are_needed=bool(missing)):
                while num_sent < len(division) and self._may_begin(
                    job, division[num_sent], num_sent, num_frames
                ):
                    yield _row(row, division, num_sent)
                    num_sent += 1
        except CancelledError as error:
            failure = {"status": "cancelled", "error": str(error)}
        except RayError as error:
            failure = {"status": "failed", "error": reason(error), "log": self._log_file(error)}
        except Exception as error:
            failure = {"status": "failed", "error": f"latents: {type(error).__name__}: {error}"}
        if failure:
            ray.get(board.fail.remote(video, **failure))
        for index in range(num_sent, len(division)):
            yield _row(row, division, index, **failure)

    def _missing(self, job: VideoJob) -> list[Segment]:
        """The segments that are not there yet."""
        ledger, plan = ledger_of(self._output, job), self._plans.of(job.pipeline).decode
        ledger.forget_other_settings()
        done = {index for index, entry in ledger.done().items() if ledger.valid(entry)}
        return [segment for segment in plan.segments if segment.index not in done]

    def _divide(self, job: VideoJob, missing: list[Segment]) -> Division:
        """The segments that are missing, by stretch."""
        plan = self._plans.of(job.pipeline).decode
        runs = stretches(missing, len(plan.stretches), warmup=plan.warmup)
        proposed = tuple(tuple(segment.index for segment in run) for run in runs) or ((),)
        return ray.get(self._farm.board.division.remote(job.specification_hash, proposed))

    def _may_begin(
        self, job: VideoJob, segments: tuple[int, ...], num_sent: int, num_frames: int
    ) -> bool:
        """Whether a decoder may have a stretch of which ``num_frames`` of the video are stored."""
        if not num_frames or not segments:
            return False
        plan = self._plans.of(job.pipeline).decode
        (start,) = (part.start for part in plan.segments if part.index == segments[0])
        if num_frames <= self._plans.model.leading_latent_frames + max(0, start - plan.warmup):
            return False
        return num_sent < ray.get(self._farm.board.spare_decoders.remote(job.specification_hash))

    def _latents(self, job: VideoJob, row: Row, *, are_needed: bool) -> Iterator[int]:
        """Have the latents stored; yields how many frames are stored already, now and then.

        Args:
            job, row: of the video.
            are_needed: to decode them.
        """
        if self._keep_latents and not are_kept(self._output, job, row["name"]):
            are_needed = True
        if not are_needed or are_stored(self._output, job):
            timings = stored_timings(self._output, job)
        else:
            # Of a run that was killed.
            self._output.delete(bands_path(video_id(job)))
            timings = yield from self._denoise(job, row)
        ray.get(self._farm.board.complete.remote(job.specification_hash, timings))

    def _log_file(self, error: RayError) -> str:
        """Where the coordinator tells more of its failure; where it is lost, nobody knows."""
        if not isinstance(error, RayTaskError):
            return ""
        with suppress(RayError):
            return str(ray.get(self._coordinator.log_file.remote(), timeout=_ANSWER_S))
        return ""

    def _denoise(self, job: VideoJob, row: Row) -> Generator[int, None, Timings]:
        """Have the coordinator denoise; should it die, it goes on from its last checkpoint.

        Yields how many latent frames are stored already; returns what it took.

        Raises:
            CancelledError: somebody asked for the video's end.
            RayError: it failed.
        """
        board, video, losses = self._farm.board, job.specification_hash, 0
        while True:
            bands = uuid.uuid4().hex[:8]
            ray.get(board.begin_latents.remote(video, bands, self._num_decoders))
            try:
                answer = self._coordinator.denoise.remote(
                    job, row["name"], row["priority"], losses + 1, bands
                )
                while not ray.wait([answer], timeout=_LOOK_S)[0]:
                    arrival = ray.get(board.arrival.remote(video))
                    if arrival.attempt != bands:
                        # The board was lost, and knows nothing of the video.
                        ray.get(board.begin_latents.remote(video, bands, self._num_decoders))
                    yield arrival.num_frames
                return ray.get(answer)
            except RayTaskError as error:
                if isinstance(error.cause, CancelledError):
                    raise error.cause from None
                losses += 1
                if not isinstance(error.cause, RayActorError) or losses == _MAX_LOSSES:
                    raise
            except RayActorError:
                # Nobody fetches what the pool grants the video until it is opened again, if ever.
                self._farm.pool.give_up.remote(job.specification_hash)
                losses += 1
                if losses == _MAX_LOSSES:
                    raise
                self._farm.board.note.remote(
                    f"{row['name']}: its coordinator is lost and is started anew; the video goes "
                    "on from its last checkpoint"
                )
                await_coordinator(self._coordinator)
                if are_stored(self._output, job):
                    # It came to its end, and only its answer was lost.
                    return stored_timings(self._output, job)


def _row(row: Row, division: Division, index: int, **failure: str) -> Row:
    return stretch_row(row, index=index, count=len(division), segments=division[index], **failure)
