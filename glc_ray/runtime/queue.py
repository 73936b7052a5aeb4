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
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import RayActorError

from glc_ray.catalog import CatalogJobs
from glc_ray.config import VideoJob
from glc_ray.runtime.errors import reason
from glc_ray.runtime.farm import beside_me
from glc_ray.runtime.queue_stages import CheckRows, read_batches
from glc_ray.runtime.queue_summary import (
    Filled,
    QueueGroup,
    QueueSummary,
    absolute,
    catalog_location,
    summary,
)
from glc_ray.runtime.queue_writer import QueueWriter
from glc_ray.store.catalog import BadRow, read_rows
from glc_ray.store.output import Output
from glc_ray.store.paths import QUEUE
from glc_ray.store.storage import StorageError

_LOG = logging.getLogger(__name__)
_BLOCK_BYTES = 1 << 19
_READ_BYTES = 64 << 20
_MOST_CHECKERS = 8
_CHECKED_ROWS = 1000
_SHOWN = 10
_MAX_LOSSES = 3
"""Of the actor, before the queue is given up."""


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
        StorageError: the queue cannot be written, or what writes it was lost again and again.
    """
    # What is wrong with the whole file shows here, before anything starts.
    next(read_rows(location, jobs.check_columns))
    output.delete(QUEUE)
    known = [] if done is None else [ray.put(done)]
    refused: list[BadRow] = []
    num_told = 0
    for losses in range(_MAX_LOSSES):
        graph = beside_me(_Graph).remote(output.location, absolute(location), jobs, str(Path.cwd()))
        answers = graph.fill.options(num_returns="streaming").remote(known, strict)
        num_bad = 0
        try:
            for answer in each(map(ray.get, answers)):
                if isinstance(answer, Filled):
                    return summary(answer, location, refused)
                num_bad += 1
                # The first ones may have been told of by one that was lost: the same, in order.
                if num_bad > num_told:
                    num_told = num_bad
                    if strict:
                        refused.append(answer)
                    elif on_invalid is not None:
                        on_invalid(answer)
        except RayActorError as error:
            if losses + 1 == _MAX_LOSSES:
                raise StorageError(
                    f"{output.uri(QUEUE)}: cannot be filled: {reason(error)}; the same command "
                    "begins anew"
                ) from None
            _LOG.warning("what fills the queue was lost (%s); it begins anew", reason(error))
            output.delete(QUEUE)
    raise AssertionError("a queue that is filled says so")


class _Graph:
    """Actor that runs the Ray Data graph, so that its messages go to Ray's logs."""

    def __init__(self, output: str, location: str, jobs: CatalogJobs, folder: str) -> None:
        self._output = Output(output)
        self._location = location
        self._jobs = jobs
        self._folder = folder

    def fill(self, done: list[Any], strict: bool) -> Iterator[BadRow | Filled]:
        """Invalid rows as they are found, of a strict run the first few, and then what became of
        all."""
        run = f"{QUEUE}/{uuid.uuid4().hex[:8]}"
        writer = QueueWriter(self._output, run, catalog_location(self._location))
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
        yield Filled(
            states=dict(writer.states),
            groups=tuple(_groups(writer, run)),
            repeats=tuple(writer.repeats),
            mistake=writer.mistake,
            num_unknown=writer.num_unknown,
            unknown=tuple(writer.unknown),
            videos=writer.videos,
            names=writer.names,
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
