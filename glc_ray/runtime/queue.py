"""The queue of a run: the rows of a catalog as jobs, checked, without what is done already.

OUTPUT/.work/queue/RUN/GROUP/PRIORITY/part-NNNNN.parquet

read (one task) -> check (actors) -> look for repeats and write, in the catalog's order. All of it
is in batches that pass by, beside the driver and not in it.
"""

from __future__ import annotations

import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext

from glc_ray.catalog import CatalogJobs
from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.protocols import UserError
from glc_ray.runtime.farm import beside_me
from glc_ray.runtime.queue_stages import DONE, INVALID, QUEUED, CheckRows, read_batches
from glc_ray.runtime.queue_writer import QueueWriter
from glc_ray.runtime.rows import Row
from glc_ray.store.catalog import BadRow, read_rows
from glc_ray.store.output import Output
from glc_ray.store.paths import QUEUE
from glc_ray.store.storage import StorageError, without_secrets

_LOG = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 19
_READ_BYTES = 64 << 20
_MOST_CHECKERS = 8
_CHECKED_ROWS = 1000
_READ_ROWS = 256
_SHOWN = 10


@dataclass(frozen=True)
class QueueGroup:
    """Videos that can share loaded actors."""

    key: str
    """As ``glc_ray.catalog.group_of``."""
    folder: str
    """Of its part files, below the output."""
    pipeline: PipelineSpec
    """Of the first of them."""
    counts: tuple[tuple[int, int], ...]
    """(priority, videos), the highest priority first."""

    def source(self, output: Output) -> Queued:
        """Its rows, for the renderer."""
        return Queued(output.location, self.folder, sum(count for _, count in self.counts))


@dataclass(frozen=True)
class QueueSummary:
    """What became of the rows of a catalog; ``total`` is the sum of the next four."""

    total: int
    """Videos, and rows that are none."""
    queued: int
    done: int
    """In the manifest already."""
    repeated: int
    """The same specification as an earlier one of this catalog."""
    invalid: int
    groups: tuple[QueueGroup, ...]
    """Of what is queued, in the order in which they came."""


def fill(
    output: Output,
    location: str,
    jobs: CatalogJobs,
    *,
    done: NDArray[np.uint64] | None,
    strict: bool = False,
    on_invalid: Callable[[BadRow], None] | None = None,
    each: Callable[[Iterable[Any]], Iterator[Any]] = iter,
) -> QueueSummary:
    """Queue the videos of a catalog in place of an earlier queue.

    A row whose name another row has is invalid; cases of letters do not tell names apart. A name
    that the output has from an earlier catalog is not in the way: a row with a name whose
    specification has changed is a new video, and its file takes the place of the old one.

    Args:
        output: of the run, which has the lease.
        location: of the catalog, local to this process or a URI.
        jobs: makes the jobs; pipelines and models are looked for from this process's folder.
        done: ids of videos that are done, as sorted integers; None queues them nevertheless.
        strict: any invalid row refuses the whole.
        on_invalid: is called for each invalid row, in order.
        each: how to wait for what comes, should something else have to be looked for meanwhile.

    Raises:
        UserError: the catalog cannot be read, or ``strict`` refuses it; nothing is queued.
        StorageError: the queue cannot be written.
    """
    # What is wrong with the whole file shows here, before anything starts.
    next(read_rows(location, jobs.check_columns))
    output.delete(QUEUE)
    graph = beside_me(_Graph).remote(output.location, _absolute(location), jobs, str(Path.cwd()))
    known = [] if done is None else [ray.put(done)]
    refused: list[BadRow] = []
    answers = graph.fill.options(num_returns="streaming").remote(known, strict)
    for answer in each(map(ray.get, answers)):
        match answer:
            case BadRow() as row if strict:
                refused.append(row)
            case BadRow() as row if on_invalid is not None:
                on_invalid(row)
            case _Filled() as filled:
                summary = _summary(filled, location, refused)
    return summary


@dataclass(frozen=True)
class Queued:
    """Rows of a group as a source of the renderer's."""

    output: str
    folder: str
    num_rows: int

    def rows(self) -> Iterator[Row]:
        """See ``rows``."""
        return rows(Output(self.output), self.folder)


def rows(output: Output, folder: str) -> Iterator[Row]:
    """The rows of a group, the highest priority first, then in the catalog's order.

    Args:
        output: of the run.
        folder: ``QueueGroup.folder``.

    Yields:
        ``job`` (JSON), ``name``, ``priority``, ``line``, ``id`` and ``catalog``, its location.

    Raises:
        StorageError: it cannot be read.
    """
    for path in sorted((stored.path for stored in output.list(folder)), key=_turn):
        stream = output.read(path)
        if stream is None:
            raise StorageError(f"{output.uri(path)}: has gone; another run has made a new queue")
        with stream:
            file = pq.ParquetFile(stream)
            for batch in file.iter_batches(_READ_ROWS, use_threads=False):
                yield from batch.to_pylist()


def _turn(path: str) -> tuple[int, str]:
    _, priority, name = path.rsplit("/", 2)
    return -int(priority), name


def _absolute(location: str) -> str:
    return location if "://" in location else str(Path(location).expanduser().resolve())


@dataclass(frozen=True)
class _Filled:
    """What the graph says at its end."""

    states: dict[str, int]
    groups: tuple[QueueGroup, ...]
    repeats: tuple[tuple[int, int], ...]
    mistake: str


def _summary(filled: _Filled, location: str, refused: list[BadRow]) -> QueueSummary:
    """Raises UserError where nothing was queued."""
    option = f"--catalog {without_secrets(location)}"
    if filled.mistake:
        raise UserError(filled.mistake)
    invalid = filled.states.get(INVALID, 0)
    if refused:
        shown = "".join(f"\n  line {row.line}: {row.error}" for row in refused)
        more = f"\n  and {invalid - len(refused)} more" if invalid > len(refused) else ""
        raise UserError(
            f"{option}: {invalid} invalid, which --strict refuses; nothing was queued. Mend "
            f"them, or leave --strict out to render the others:{shown}{more}"
        )
    if repeated := filled.states.get("repeated", 0):
        lines = "; ".join(f"line {line} as line {first}" for line, first in filled.repeats)
        more = ", ..." if repeated > len(filled.repeats) else ""
        _LOG.warning(
            "%s: %d ask for a video that another row asks for, prompt, seed and settings alike; "
            "it is rendered once: %s%s",
            option,
            repeated,
            lines,
            more,
        )
    counts = {name: filled.states.get(name, 0) for name in (QUEUED, DONE, "repeated", INVALID)}
    return QueueSummary(total=sum(counts.values()), groups=filled.groups, **counts)


class _Graph:
    """Actor that runs the Ray Data graph, so that its messages go to Ray's logs."""

    def __init__(self, output: str, location: str, jobs: CatalogJobs, folder: str) -> None:
        self._output = Output(output)
        self._location = location
        self._jobs = jobs
        self._folder = folder

    def fill(self, done: list[Any], strict: bool) -> Iterator[BadRow | _Filled]:
        """Invalid rows as they are found, of a strict run the first few, and then what became of
        all."""
        run = f"{QUEUE}/{uuid.uuid4().hex[:8]}"
        writer = QueueWriter(self._output, run, without_secrets(self._location))
        num_refused = 0
        for videos in self._dataset(done).iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in writer.add(videos):
                num_refused += strict
                if num_refused <= _SHOWN:
                    yield row
        if writer.mistake or num_refused:
            self._output.delete(run)
        else:
            writer.close()
        yield _Filled(
            states=dict(writer.states),
            groups=tuple(_groups(writer, run)),
            repeats=tuple(writer.repeats),
            mistake=writer.mistake,
        )

    def _dataset(self, done: list[Any]) -> ray.data.Dataset:
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        context.target_max_block_size = _BLOCK_BYTES
        # Pipelines and models are files that this node has.
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        return (
            ray.data.from_items([self._location])
            .map_batches(
                _read,
                fn_args=(self._location, self._jobs),
                batch_size=None,
                num_cpus=0,
                # Other needs than the next stage has: else both were one, on a single actor.
                memory=_READ_BYTES,
                label_selector=here,
            )
            .map_batches(
                CheckRows,
                fn_constructor_args=(self._jobs, done, self._folder),
                batch_format="pyarrow",
                batch_size=_CHECKED_ROWS,
                compute=ActorPoolStrategy(min_size=1, max_size=min(_MOST_CHECKERS, _num_cores())),
                num_cpus=0,
                label_selector=here,
            )
        )


def _read(_: Any, location: str, jobs: CatalogJobs) -> Iterator[Any]:
    yield from read_batches(location, jobs)


def _num_cores() -> int:
    return os.cpu_count() or 1


def _groups(writer: QueueWriter, run: str) -> Iterator[QueueGroup]:
    for group, job in writer.first_jobs.items():
        counts = {place[1]: count for place, count in writer.queued.items() if place[0] == group}
        yield QueueGroup(
            key=group,
            folder=f"{run}/{group}",
            pipeline=VideoJob.model_validate_json(job).pipeline,
            counts=tuple(sorted(counts.items(), reverse=True)),
        )
