"""The Ray Data graph: jobs -> coordinate -> decode and encode -> manifest rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.job import video_name
from glc_ray.runtime.board import Board
from glc_ray.runtime.decode_stage import DecodeEncodeStage, failed_record
from glc_ray.runtime.denoise_stage import DenoiseStage, Row, row_of
from glc_ray.runtime.messages import VideoProgress
from glc_ray.runtime.pool import reason, start_denoisers
from glc_ray.store.manifest import VideoRecord

_SNAPSHOT_S = 10.0


class Run:
    """Renders jobs of one pipeline on the cluster that this process is connected to.

    Args:
        pipeline: model, resources and settings that all jobs share.
        output: where videos go.
    """

    def __init__(self, pipeline: PipelineSpec, output: str) -> None:
        self._board = ray.remote(Board).options(num_cpus=0, max_restarts=-1).remote()
        self._workers = start_denoisers(pipeline)
        # In a process of its own, so that Ray Data's messages go to Ray's logs.
        graph = ray.remote(_Graph).options(num_cpus=0)
        self._graph = graph.remote(pipeline, output, self._workers, self._board)

    def progress(self) -> list[VideoProgress]:
        """Where the videos stand now."""
        return ray.get(self._board.snapshot.remote(), timeout=_SNAPSHOT_S)

    def records(self, jobs: Sequence[VideoJob]) -> Iterator[VideoRecord]:
        """Render ``jobs``; yields each video's record as it is finished or has failed."""
        waiting = {job.specification_hash: job for job in jobs}
        for key, job in waiting.items():
            self._board.report.remote(key, VideoProgress(video_name(job), "queued"))
        try:
            for row in self._graph.rows.options(num_returns="streaming").remote(list(jobs)):
                record = VideoRecord(**ray.get(row))
                del waiting[record.specification_hash]
                yield record
        except RayError as error:
            for job in waiting.values():
                yield failed_record(job, video_name(job), reason(error))


class _Graph:
    """Actor that runs the Ray Data graph."""

    def __init__(self, pipeline: PipelineSpec, output: str, workers: list[Any], board: Any) -> None:
        self._pipeline = pipeline
        self._output = output
        self._workers = workers
        self._board = board

    def rows(self, jobs: list[VideoJob]) -> Iterator[Row]:
        DataContext.get_current().enable_progress_bars = False
        yield from self._dataset([row_of(job, video_name(job)) for job in jobs]).iter_rows()

    def _dataset(self, rows: list[Row]) -> ray.data.Dataset:
        resources = self._pipeline.resources
        return (
            # One row a block: a finished video is decoded while the next is denoised.
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .map(
                DenoiseStage,
                fn_constructor_args=(self._pipeline, self._workers, self._board),
                compute=ActorPoolStrategy(size=min(resources.coordinators.count, len(rows))),
                num_cpus=0,
            )
            .map(
                DecodeEncodeStage,
                fn_constructor_args=(self._pipeline, self._output, self._board),
                compute=ActorPoolStrategy(size=min(resources.decoders.count, len(rows))),
                num_cpus=resources.decoders.num_cpus,
                num_gpus=resources.decoders.num_gpus,
            )
        )
