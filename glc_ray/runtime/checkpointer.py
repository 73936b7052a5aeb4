"""Stores the state of a video between its steps, beside the work, while that costs little."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import asdict

from glc_ray.config import CheckpointSpec, VideoJob
from glc_ray.protocols import SchedulerState
from glc_ray.runtime.messages import Timings
from glc_ray.sampler import Boundary, check_start
from glc_ray.store import checkpoint as checkpoints
from glc_ray.store.checkpoint import Checkpoint
from glc_ray.store.output import Output
from glc_ray.store.storage import StorageError

_LOG = logging.getLogger(__name__)


class Checkpointer:
    """Writes the newest boundary in a thread of its own.

    Args:
        output: where the video goes.
        video: its work folder's name.
        job: what is denoised.
    """

    def __init__(self, output: Output, video: str, job: VideoJob) -> None:
        self._output = output
        self._video = video
        self._job = job
        self._latents_hash = job.latents_hash
        self._spec: CheckpointSpec = job.pipeline.resources.checkpoint
        self._newest: Checkpoint | None = None
        self._written_step = 0
        self._wanted = threading.Event()
        self._writing = threading.Lock()
        self._is_closed = False
        self._began = self._written_at = time.monotonic()
        self.write_s = 0.0
        """Seconds spent on writing."""
        self.written_bytes = 0
        self._thread = threading.Thread(target=self._work, name="checkpointer", daemon=True)
        self._thread.start()

    def load(self) -> tuple[Boundary, Timings] | None:
        """Where an earlier attempt came to, and what it took; None from the beginning.

        What another version of this program or of diffusers left, and cannot be gone on from, is
        deleted: the video would fail by it again and again.
        """
        found = checkpoints.load_latest(self._output, self._video, self._latents_hash)
        if found is None:
            return None
        try:
            state = SchedulerState(tensors=found.tensors, values=found.values["scheduler"])
            boundary = Boundary(found.step_index, found.latents_BFCHW, state)
            timings = Timings(**found.values["timings"])
            check_start(self._job, boundary)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            _LOG.warning("its checkpoint is of another version, so that it begins anew: %s", error)
            checkpoints.delete(self._output, self._video)
            return None
        self._written_step = found.step_index
        return boundary, timings

    def offer(self, boundary: Boundary, timings: Timings) -> None:
        """The state after a step; it is stored if it is time to, and the writer is free."""
        state = boundary.scheduler
        self._newest = Checkpoint(
            step_index=boundary.step_index,
            latents_BFCHW=boundary.latents_BFCHW,
            tensors=state.tensors,
            values={"scheduler": state.values, "timings": asdict(timings)},
        )
        if self._is_due(boundary.step_index):
            self._wanted.set()

    def flush(self) -> None:
        """Store the newest state now, unless it is stored already."""
        with self._writing:
            newest = self._newest
            if self._is_closed or newest is None or newest.step_index <= self._written_step:
                return
            start = time.monotonic()
            try:
                checkpoints.save(self._output, self._video, self._latents_hash, newest)
            except Exception as error:
                # The video goes on; what is lost is what a crash would have to repeat. The thread
                # goes on, too: what it cannot write now it may well write later.
                _LOG.warning("no checkpoint: %s", _in_words(error))
            else:
                tensors = (newest.latents_BFCHW, *newest.tensors.values())
                self.written_bytes += sum(tensor.nbytes for tensor in tensors)
                self._written_step = newest.step_index
            self._written_at = time.monotonic()
            self.write_s += self._written_at - start

    def close(self) -> None:
        """Write no more: when this returns, nothing is being written."""
        with self._writing:
            self._is_closed = True
        self._wanted.set()

    def _is_due(self, step_index: int) -> bool:
        now = time.monotonic()
        return (
            not self._writing.locked()
            and step_index - self._written_step >= self._spec.interval
            and now - self._written_at >= self._spec.interval_s
            and self.write_s <= self._spec.max_share * (now - self._began)
            and self._spec.max_share > 0
        )

    def _work(self) -> None:
        while True:
            self._wanted.wait()
            self._wanted.clear()
            if self._is_closed:
                return
            self.flush()


def _in_words(error: Exception) -> str:
    return str(error) if isinstance(error, StorageError) else f"{type(error).__name__}: {error}"
