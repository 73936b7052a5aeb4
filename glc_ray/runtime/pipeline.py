"""The Ray Data graph: jobs -> coordinate -> decode and encode -> join -> manifest rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.job import video_name
from glc_ray.runtime.assembly import Assembly
from glc_ray.runtime.decode_stage import DecodeEncodeStage
from glc_ray.runtime.denoise_stage import DenoiseStage
from glc_ray.runtime.denoiser import start_denoisers
from glc_ray.runtime.errors import reason
from glc_ray.runtime.farm import Farm, beside_me, start_farm
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.messages import BoardSnapshot, VideoProgress
from glc_ray.runtime.rows import Row, failed_record, row_of
from glc_ray.runtime.tile_pool import start_tile_actors
from glc_ray.store.manifest import VideoRecord

_SNAPSHOT_S = 10.0


class Run:
    """Renders jobs of one pipeline on the cluster that this process is connected to.

    Args:
        pipeline: model, resources and settings that all jobs share.
        output: where videos go.
        keep_latents: keep final latents beside the videos.
        denoises: start denoisers; False where all latents are stored already.
    """

    def __init__(
        self,
        pipeline: PipelineSpec,
        output: str,
        *,
        keep_latents: bool = False,
        denoises: bool = True,
    ) -> None:
        self._pipeline = pipeline
        workers = start_denoisers(pipeline) if denoises else []
        self._farm = start_farm(output, workers, pipeline.resources.denoisers)
        # In a process of its own, so that Ray Data's messages go to Ray's logs.
        self._graph = beside_me(_Graph).remote(self._farm, pipeline, keep_latents)

    def progress(self) -> BoardSnapshot:
        """Where the videos stand now."""
        return ray.get(self._farm.board.snapshot.remote(), timeout=_SNAPSHOT_S)

    def records(self, jobs: Sequence[VideoJob]) -> Iterator[VideoRecord]:
        """Render ``jobs``; yields each video's record as it is finished or has failed."""
        # Here, where diffusers is imported already, and not once more in the graph's process.
        plans = FilePlans(self._pipeline, len(jobs))
        waiting = {job.specification_hash: job for job in jobs}
        for key, job in waiting.items():
            self._farm.board.report.remote(key, VideoProgress(video_name(job), "queued"))
        try:
            answers = self._graph.records.options(num_returns="streaming")
            for done in answers.remote(list(jobs), plans):
                record: VideoRecord = ray.get(done)
                del waiting[record.specification_hash]
                yield record
        except RayError as error:
            for job in waiting.values():
                yield failed_record(job, video_name(job), reason(error))


class _Graph:
    """Actor that runs the Ray Data graph."""

    def __init__(self, farm: Farm, pipeline: PipelineSpec, keep_latents: bool) -> None:
        self._farm = farm
        self._pipeline = pipeline
        self._keep_latents = keep_latents

    def records(self, jobs: list[VideoJob], plans: FilePlans) -> Iterator[VideoRecord]:
        """Records as they are done; ``plans`` are those of the jobs' files."""
        context = DataContext.get_current()
        context.enable_progress_bars = False
        # A block a row: stretches of one video go to several decoders, as soon as they are there.
        context.target_max_block_size = 1
        assembly = Assembly(self._farm.output, plans, keep_latents=self._keep_latents)
        rows = [row_of(job, video_name(job)) for job in jobs]
        names = {row["job"]: (job, row["name"]) for row, job in zip(rows, jobs, strict=True)}
        for row in self._dataset(rows, plans).iter_rows():
            record = assembly.add(row)
            if record is not None:
                job, name = names[row["job"]]
                progress = VideoProgress(name, record.status)
                self._farm.board.report.remote(job.specification_hash, progress)
                yield record

    def _dataset(self, rows: list[Row], plans: FilePlans) -> ray.data.Dataset:
        resources, plan = self._pipeline.resources, plans.shared
        decoders, share = resources.decoders, plan.kind == "tiles"
        # With shared tiles one process blends, and the actors hold what decoders are given.
        tile_actors = start_tile_actors(self._pipeline, len(plan.tiles)) if share else []
        size = 1 if share else min(decoders.count, len(rows) * len(plan.stretches))
        return (
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .flat_map(
                DenoiseStage,
                fn_constructor_args=(self._farm, self._pipeline, plans),
                compute=ActorPoolStrategy(size=min(resources.coordinators.count, len(rows))),
                num_cpus=0,
            )
            .map(
                DecodeEncodeStage,
                fn_constructor_args=(
                    self._pipeline,
                    self._farm.output,
                    self._farm.board,
                    plans,
                    tile_actors,
                ),
                compute=ActorPoolStrategy(size=size),
                num_cpus=0 if share else decoders.num_cpus,
                num_gpus=0 if share else decoders.num_gpus,
            )
        )
