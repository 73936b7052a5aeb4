"""One run on an output: nobody else's meanwhile, watched, stopped by a signal, and gone on with."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from glc_ray.catalog import CatalogJobs
from glc_ray.config import PipelineSpec
from glc_ray.runtime.cluster import connected
from glc_ray.runtime.messages import BoardSnapshot
from glc_ray.runtime.pipeline import Graph, Renderer, RowSource
from glc_ray.runtime.queue import fill
from glc_ray.runtime.queue_summary import QueueSummary, catalog_location
from glc_ray.runtime.reporting import Reporting
from glc_ray.stopping import Stop, StoppedError, stop_by_signals
from glc_ray.store import control, manifest, run_status
from glc_ray.store.catalog import BadRow
from glc_ray.store.lease import LeaseLostError, run_lease
from glc_ray.store.manifest import ManifestWriter
from glc_ray.store.outdated import Asked, Names
from glc_ray.store.output import Output
from glc_ray.store.paths import WORK, video_of, work_path
from glc_ray.store.record import VideoRecord, invalid_record
from glc_ray.store.run_status import FINAL_STATES, RunStatus, VideoProgress
from glc_ray.store.storage import StorageError

_LOG = logging.getLogger(__name__)
_WATCH_S = 1.0
_STATUS_S = 2.0
_SETTLE_S = 1.0
_SHOWN = 64
"""Videos whose end displays are told of."""
_CLEARED = 4
"""Work folders that are removed at a time."""
_CHECKPOINT_S = 1.8
"""For storing what coordinators have: `ray job stop` kills three seconds after it asked to end."""


@dataclass(frozen=True)
class Group:
    """Videos that can share loaded actors."""

    pipeline: PipelineSpec
    """Model, resources and settings that they share."""
    source: RowSource


class Run:
    """Renders groups of videos, one after the other, and keeps the manifest.

    Args:
        place: where the videos go; this run alone has it while the block lasts.
        keep_latents: keep final latents beside the videos.
        denoises: False where all latents are stored already.
        waits: for another run on ``place``, as long as that takes.
        stops: SIGTERM and SIGINT store what is in work and end it with StoppedError.
        graph: as of ``Renderer``.
        report: keep the report page up to date.

    Raises:
        UserError: another run has the output.
    """

    def __init__(
        self,
        place: Output,
        *,
        keep_latents: bool = False,
        denoises: bool = True,
        waits: bool = False,
        stops: bool = False,
        graph: type[Graph] | None = None,
        report: bool = False,
    ) -> None:
        self._graph = graph
        self._reporting = Reporting(place, lambda: self._status) if report else None
        self._place = place
        self._keep_latents = keep_latents
        self._denoises = denoises
        self._waits = waits
        self._stops = stops
        self._renderer: Renderer | None = None
        self._status = RunStatus(
            host=socket.gethostname(), pid=os.getpid(), started_at=time.time(), updated_at=0.0
        )
        self._ended: Counter[str] = Counter()
        self._last: deque[VideoProgress] = deque(maxlen=_SHOWN)
        self._names: Names | None = None
        self._busy_before_s = 0.0
        """Of the groups before."""
        self._ending = threading.Event()
        self._cancelled = control.Cancelled()
        self._stop = Stop()
        self._stack = ExitStack()

    def __enter__(self) -> Run:
        with self._stack as stack:
            wait_s = math.inf if self._waits else None
            self._lease = stack.enter_context(
                run_lease(self._place, wait_s=wait_s, on_wait=_LOG.warning)
            )
            # What was asked of an earlier run is not asked of this one.
            control.clear(self._place)
            # An object store removes file by file: neither records nor a signal wait for that.
            self._clearing = stack.enter_context(ThreadPoolExecutor(_CLEARED, "clear"))
            if self._reporting is not None:
                stack.enter_context(self._reporting)
            stack.push(self._tell_end)
            self._manifest = stack.enter_context(ManifestWriter(self._place))
            watch = threading.Thread(target=self._watch, name="run", daemon=True)
            watch.start()
            stack.callback(watch.join)
            stack.callback(self._ending.set)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *details: Any) -> None:
        self._stack.__exit__(*details)

    def _tell_end(self, kind: type[BaseException] | None, *_: Any) -> None:
        """When nobody else tells any more, and while the output is this run's still."""
        state = "done"
        if kind is not None:
            state = "stopped" if issubclass(kind, StoppedError) else "failed"
        self._status = replace(self._status, state=state)
        with suppress(Exception):
            self._write_status(None)

    @property
    def ended(self) -> Counter[str]:
        """How many videos have ended so far, by status."""
        return self._ended

    def progress(self) -> BoardSnapshot:
        """Where the videos stand now, for displays."""
        renderer = self._renderer
        in_work = () if renderer is None else renderer.in_work()
        counts = {status: self._ended[status] for status in FINAL_STATES}
        return BoardSnapshot(in_work, tuple(self._last), counts)

    def expect(self, num_videos: int, num_skipped: int = 0) -> None:
        """How many videos there are to render, and how many were done before."""
        self._status = replace(self._status, num_videos=num_videos, num_skipped=num_skipped)

    @contextmanager
    def connected(self, address: str | None, pipeline: PipelineSpec) -> Iterator[None]:
        """Be connected to a cluster with room for the actors of a pipeline; as ``connected``."""
        signals = stop_by_signals() if self._stops else nullcontext(Stop())
        with connected(address, pipeline, denoises=self._denoises), signals as self._stop:
            try:
                yield
            finally:
                # Before Ray goes, whom they ask.
                self._stop.settle(_SETTLE_S)

    def fill(self, catalog: str, jobs: CatalogJobs, *, strict: bool, force: bool) -> QueueSummary:
        """Queue the videos of a catalog that are not done; invalid rows go into the manifest.

        Raises:
            UserError: it cannot be read, or ``strict`` refuses it.
        """

        location, invalid = catalog_location(catalog), set()

        def add_invalid(row: BadRow) -> None:
            record = invalid_record(location, row.line, row.error, name=row.name, prompt=row.prompt)
            invalid.add(record.id)
            self.add(record)

        done = None if force else manifest.ids(self._place)
        if done is not None:
            self.clear_left(done)
        queue = fill(
            self._place,
            catalog,
            jobs,
            done=done,
            strict=strict,
            on_invalid=add_invalid,
            each=self._stop.each,
        )
        # One that came with the last answer.
        self._stop.check()
        self.find_outdated(replace(queue.asked, invalid=invalid))
        self._manifest.flush()
        self.expect(queue.queued + queue.invalid, queue.done)
        return queue

    def find_outdated(self, asked: Asked) -> None:
        """Put right rows that are true no more, now and whenever a video takes another's name."""
        self._names = Names(self._place, asked)
        for row in self._names.outdated():
            self._put(row)

    def add(self, record: VideoRecord) -> None:
        """A video came to its end: put its row into the manifest."""
        self._put(record)
        replaced = self._names.replaced(record) if self._names is not None else None
        if replaced is not None:
            self._put(replaced)
        self._ended[record.status] += 1
        if record.status != "invalid":
            self._last.append(VideoProgress(record.name, record.status))

    def _put(self, row: VideoRecord) -> None:
        """Into the manifest, and onto the page that shows it."""
        self._manifest.add(row)
        if self._reporting is not None:
            self._reporting.add(row)

    def render(self, groups: Sequence[Group], address: str | None) -> Iterator[VideoRecord]:
        """Render all videos; yields the record of each, which is in the manifest.

        Raises:
            UserError: the cluster has no room for a group's actors; nothing was begun.
            StoppedError: a signal asked for the end; what was in work goes on with the next run.
        """
        if not groups:
            return
        with ExitStack() as stack:
            # The first starts a cluster where none runs; the others ask whether they fit.
            stack.enter_context(self.connected(address, groups[0].pipeline))
            for group in groups[1:]:
                stack.enter_context(connected(None, group.pipeline, denoises=self._denoises))
            for group in groups:
                yield from self._render_group(group)
                if self._cancelled.everything:
                    return

    def _render_group(self, group: Group) -> Iterator[VideoRecord]:
        renderer = Renderer(
            group.pipeline,
            self._place.location,
            num_videos=group.source.num_rows,
            keep_latents=self._keep_latents,
            denoises=self._denoises,
            graph=self._graph,
        )
        self._renderer = renderer
        try:
            for record in self._stop.each(renderer.records(group.source)):
                self._lease.check()
                record = replace(record, queued_at=self._status.started_at)
                self.add(record)
                # At once: when its work folder is gone, only this row knows that it is done.
                self._manifest.flush()
                if record.status == "done":
                    self._clearing.submit(self._clear, record.id)
                yield record
        except StoppedError:
            self._checkpoint(renderer)
            raise
        finally:
            self._renderer = None
            self._busy_before_s = self._status.workers.busy_s
            renderer.close()

    def _clear(self, video: str) -> None:
        """Remove the work folder of a video that is done; another run may be at work in it."""
        # What cannot be removed takes room, and that is all.
        with suppress(StorageError):
            if not self._lease.is_lost:
                self._place.delete(work_path(video))

    def clear_left(self, done: NDArray[np.uint64]) -> None:
        """Remove the work folders that a run left which was killed just before it did so.

        Args:
            done: ids of videos that are done, as integers.
        """
        for video in sorted(
            {video for file in self._place.list(WORK) if (video := video_of(file.path))}
        ):
            if np.isin(np.uint64(int(video, 16)), done):
                self._clearing.submit(self._clear, video)

    def _checkpoint(self, renderer: Renderer) -> None:
        """Within the seconds that are left."""
        try:
            renderer.checkpoint(_CHECKPOINT_S)
        except Exception as error:
            _LOG.warning("no checkpoint at the end: %s; the one before it counts", error)
        self._manifest.flush()

    def _watch(self) -> None:
        """Tell the output where the run stands, and the run what was asked of it."""
        written = 0.0
        while not self._ending.wait(_WATCH_S):
            renderer = self._renderer
            # A record may be hours away, and all that is stored until then disturbs the other run.
            try:
                self._lease.check()
            except LeaseLostError as error:
                self._stop.end(error)
            # What cannot be asked or told now is later.
            with suppress(Exception):
                self._obey(renderer)
            with suppress(Exception):
                self._tell_notices(renderer)
            if time.monotonic() - written >= _STATUS_S:
                written = time.monotonic()
                with suppress(Exception):
                    self._write_status(renderer)

    def _obey(self, renderer: Renderer | None) -> None:
        self._cancelled = cancelled = control.read_cancelled(self._place, self._cancelled)
        if renderer is not None and (cancelled.names or cancelled.everything):
            renderer.cancel(sorted(cancelled.names), everything=cancelled.everything)

    def _tell_notices(self, renderer: Renderer | None) -> None:
        """In place of Ray's own messages."""
        for line in renderer.notices() if renderer is not None else ():
            _LOG.warning(line)

    def _write_status(self, renderer: Renderer | None) -> None:
        in_work: tuple[VideoProgress, ...] = ()
        workers = self._status.workers
        if renderer is not None:
            in_work, workers = renderer.in_work(), renderer.occupancy()
            workers = replace(workers, busy_s=workers.busy_s + self._busy_before_s)
        self._status = status = replace(
            self._status,
            updated_at=time.time(),
            ended=dict(self._ended),
            in_work=in_work,
            workers=workers,
        )
        run_status.write(self._place, status)
