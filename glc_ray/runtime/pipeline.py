"""The Ray Data graph: rows of jobs -> coordinate -> decode and encode -> join -> manifest rows."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Protocol

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayError

from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.job import video_name
from glc_ray.runtime.assembly import Assembly
from glc_ray.runtime.cluster import videos_at_once
from glc_ray.runtime.coordinator import checkpoint_now
from glc_ray.runtime.decode_stage import DecodeEncodeStage
from glc_ray.runtime.denoise_stage import DenoiseStage
from glc_ray.runtime.denoiser import start_denoisers
from glc_ray.runtime.errors import reason
from glc_ray.runtime.farm import Farm, beside_me, start_farm
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.joins import joined
from glc_ray.runtime.metrics import Telemetry
from glc_ray.runtime.previewer import start_previewer
from glc_ray.runtime.rows import Row, failed_record, row_of
from glc_ray.runtime.tile_pool import start_tile_actors
from glc_ray.store.output import Output
from glc_ray.store.record import VideoRecord
from glc_ray.store.run_status import Occupancy, VideoProgress

_LOG = logging.getLogger(__name__)
_ANSWER_S = 10.0
_FEED_BYTES = 64 << 20
_ASK_S = 1.0
"""Between two questions whether the run is to end."""
_MAX_FAILED_STARTS = 3
"""Of actors of one stage, one after another."""
_MAX_LOSSES = 3
"""Of the graph, one after another without a video in between."""


class RowSource(Protocol):
    """Where the rows of videos come from, in the order in which they begin; goes to actors."""

    @property
    def num_rows(self) -> int: ...

    def rows(self) -> Iterator[Row]:
        """Every time the same ones in the same order."""
        ...


@dataclass(frozen=True)
class Listed:
    """The rows of a few videos."""

    listed: tuple[Row, ...]

    @classmethod
    def of(cls, *jobs: VideoJob) -> Listed:
        """Videos that are called by their prompts."""
        return cls(tuple(row_of(job, video_name(job)) for job in jobs))

    @property
    def num_rows(self) -> int:
        """How many they are."""
        return len(self.listed)

    def rows(self) -> Iterator[Row]:
        """In order."""
        return iter(self.listed)


class Renderer:
    """Renders videos that can share loaded actors, on the cluster that this process is connected
    to.

    Args:
        pipeline: model, resources and settings that they share.
        output: where videos go.
        num_videos: about how many they are.
        keep_latents: keep final latents beside the videos.
        denoises: start denoisers; False where all latents are stored already.
        graph: another kind of graph, for benches.
    """

    def __init__(
        self,
        pipeline: PipelineSpec,
        output: str,
        *,
        num_videos: int = 1,
        keep_latents: bool = False,
        denoises: bool = True,
        graph: type[Graph] | None = None,
    ) -> None:
        self._graph_class = graph or Graph
        self._workers = start_denoisers(pipeline) if denoises else []
        resources = pipeline.resources
        counted = Telemetry.of(Output(output).uri(), resources)
        farm = start_farm(output, self._workers, resources.denoisers, telemetry=counted)
        if denoises and pipeline.preview.every:
            previewer = start_previewer(output, pipeline, counted)
            farm = replace(farm, previewer=previewer)
        self._farm = farm
        # Here, where diffusers is imported already, and not once more in the graph's process.
        plans = FilePlans(pipeline, num_videos)
        at_once = videos_at_once(pipeline, plans.model, num_videos)
        self._plan = GraphPlan(pipeline, plans, num_videos, at_once, keep_latents)
        self._graph: Any = None
        self._is_closed = False

    def in_work(self) -> tuple[VideoProgress, ...]:
        """Where the videos in work stand now."""
        return ray.get(self._farm.board.in_work.remote(), timeout=_ANSWER_S)

    def occupancy(self) -> Occupancy:
        """What the denoisers do."""
        return ray.get(self._farm.pool.occupancy.remote(), timeout=_ANSWER_S)

    def notices(self) -> list[str]:
        """What befell actors since the last call, for people."""
        lines: list[str] = []
        for actor in (self._farm.pool, self._farm.board):
            # One that is being started anew says later what there is to say.
            with suppress(RayError):
                lines += ray.get(actor.notices.remote(), timeout=_ANSWER_S)
        return lines

    def cancel(self, names: Sequence[str], *, everything: bool = False) -> None:
        """Have videos stop at their next step, and with ``everything`` no other begin."""
        ray.get(self._farm.board.cancel.remote(names, everything), timeout=_ANSWER_S)

    def checkpoint(self, timeout_s: float) -> int:
        """Have all coordinators store what they have; returns how many did so in time."""
        until = time.monotonic() + timeout_s
        coordinators = ray.get(self._farm.board.coordinators.remote(), timeout=timeout_s)
        asked = [checkpoint_now(coordinator) for coordinator in coordinators]
        left_s = max(0.0, until - time.monotonic())
        done, _ = ray.wait(asked, num_returns=len(asked), timeout=left_s) if asked else ([], [])
        return len(done)

    def records(self, source: RowSource) -> Iterator[VideoRecord]:
        """Render the videos of ``source``; yields a record as each is done, failed or cancelled.

        Should the graph be lost, it is built anew for those that have no record yet.
        """
        recorded: set[str] = set()
        losses = 0
        while True:
            before = len(recorded)
            try:
                for record in self._pass(source, recorded):
                    recorded.add(record.id)
                    yield record
                return
            except RayError as error:
                if self._is_closed:
                    return
                losses = 1 if len(recorded) > before else losses + 1
                if losses < _MAX_LOSSES:
                    _LOG.warning(
                        "the graph of the run was lost (%s); it is built anew, and videos go on "
                        "from what is stored",
                        reason(error),
                    )
                else:
                    yield from _unrecorded(source, recorded, reason(error))
                    return
            finally:
                self._end_graph()

    def close(self) -> None:
        """Free what the actors take of the cluster; ``records`` ends."""
        self._is_closed = True
        self._end_graph()
        for actor in (
            *self._workers,
            self._farm.pool,
            self._farm.board,
            *filter(None, [self._farm.previewer]),
        ):
            ray.kill(actor)

    def _pass(self, source: RowSource, recorded: set[str]) -> Iterator[VideoRecord]:
        # In a process of its own, so that Ray Data's messages go to Ray's logs.
        self._graph = beside_me(self._graph_class).remote(self._farm, self._plan)
        answers = self._graph.records.options(num_returns="streaming")
        for done in answers.remote(source, frozenset(recorded)):
            yield ray.get(done)

    def _end_graph(self) -> None:
        if self._graph is not None:
            ray.kill(self._graph)
            self._graph = None


def _unrecorded(source: RowSource, recorded: set[str], why: str) -> Iterator[VideoRecord]:
    for row in source.rows():
        if row["id"] not in recorded:
            yield failed_record(row, why)


@dataclass(frozen=True)
class GraphPlan:
    """What the graph's stages are made of."""

    pipeline: PipelineSpec
    files: FilePlans
    num_videos: int
    num_at_once: int
    """Videos that are denoised at once."""
    keep_latents: bool


class Graph:
    """Actor that runs the Ray Data graph."""

    def __init__(self, farm: Farm, plan: GraphPlan) -> None:
        farm.telemetry.log()
        self._farm = farm
        self._plan = plan

    def records(self, source: RowSource, recorded: frozenset[str]) -> Iterator[VideoRecord]:
        """Records of the videos that are not recorded, as they are done."""
        context = DataContext.get_current()
        context.enable_progress_bars = False
        # Ray Data would end the graph when no row has moved for half an hour: videos take hours.
        context.execution_no_progress_timeout_s = -1
        # A block a row: stretches of one video go to several decoders, as soon as they are there.
        context.target_max_block_size = 1
        if hasattr(context, "max_consecutive_actor_init_deaths"):
            # An actor that cannot start for a moment must not take the graph with it.
            context.max_consecutive_actor_init_deaths = _MAX_FAILED_STARTS
        assembly = Assembly(
            self._farm.output, self._plan.files, keep_latents=self._plan.keep_latents
        )
        dataset = self._dataset(Feed(source, recorded, self._farm.board))
        for record in joined(_at_once(dataset), assembly):
            progress = VideoProgress(record.name, record.status)
            self._farm.board.report.remote(record.specification_hash, progress)
            yield record

    def _dataset(self, feed: Feed) -> ray.data.Dataset:
        plan, resources = self._plan, self._plan.pipeline.resources
        decode, decoders = plan.files.shared, resources.decoders
        share = decode.kind == "tiles"
        # With shared tiles one process blends, and the actors hold what decoders are given.
        tile_actors = start_tile_actors(plan.pipeline, len(decode.tiles)) if share else []
        size = 1 if share else min(decoders.count, plan.num_videos * len(decode.stretches))
        return (
            feed.dataset()
            .flat_map(
                DenoiseStage,
                fn_constructor_args=(
                    self._farm,
                    plan.pipeline,
                    plan.files,
                    size,
                    plan.keep_latents,
                ),
                compute=_actors(plan.num_at_once),
                num_cpus=0,
            )
            .map(
                DecodeEncodeStage,
                fn_constructor_args=(
                    plan.pipeline,
                    self._farm.output,
                    self._farm.board,
                    plan.files,
                    tile_actors,
                ),
                compute=_actors(size),
                num_cpus=0 if share else decoders.num_cpus,
                num_gpus=0 if share else decoders.num_gpus,
                resources={} if share else decoders.custom,
            )
        )


def _at_once(dataset: ray.data.Dataset) -> Iterator[Row]:
    """The rows, each when it is there: ``iter_rows`` keeps one back until the next has come."""
    for batch in dataset.iter_batches(prefetch_batches=0, batch_size=None, batch_format="pyarrow"):
        yield from batch.to_pylist()


def _actors(size: int) -> ActorPoolStrategy:
    # Rows take minutes: none waits behind another while an actor is idle.
    return ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=1)


@dataclass
class Feed:
    """Begins the graph: any item -> the rows of all videos, until the run is ended."""

    source: RowSource
    recorded: frozenset[str]
    board: Any

    def dataset(self) -> ray.data.Dataset:
        """The rows, in order."""
        if isinstance(self.source, Listed):
            # A few: nothing has to be started for them.
            rows = [row for row in self.source.rows() if row["id"] not in self.recorded]
            return ray.data.from_items(rows, override_num_blocks=max(1, len(rows)))
        item = ray.data.from_items([{"source": 0}], override_num_blocks=1)
        # Other needs than the next stage has: else both were one, on a single actor.
        return item.flat_map(self, num_cpus=0, memory=_FEED_BYTES)

    def __call__(self, item: Any) -> Iterator[Row]:
        asked = -math.inf
        for row in self.source.rows():
            if row["id"] in self.recorded:
                continue
            if time.monotonic() - asked > _ASK_S:
                asked = time.monotonic()
                if ray.get(self.board.is_ending.remote()):
                    return
            yield row
