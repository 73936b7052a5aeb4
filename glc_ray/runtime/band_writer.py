"""Stores bands of final latents beside the last denoising step, for decoders that begin early."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import ray
from torch import Tensor

from glc_ray.config import VideoJob
from glc_ray.runtime.rows import video_id
from glc_ray.store.latents import save_latents
from glc_ray.store.output import Output
from glc_ray.store.paths import band_path
from glc_ray.store.storage import StorageError

_LOG = logging.getLogger(__name__)


class BandWriter:
    """Writes bands in a thread of its own, in order, and tells the board of each that is stored.

    Nothing is written while no decoder is free for the video.

    Args:
        output: where the video goes.
        board: handle of the board.
        job: what is denoised.
        attempt: at it; another one has another folder, and the board knows which counts.
    """

    def __init__(self, output: Output, board: Any, job: VideoJob, attempt: str) -> None:
        self._output = output
        self._board = board
        self._job = job
        self._attempt = attempt
        self._unwritten: list[tuple[int, Tensor]] = []
        self._stopping = threading.Event()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="bands")

    def add(self, first_frame: int, latents_BFCHW: Tensor) -> None:
        """Have a band stored; nobody may change it."""
        self._unwritten.append((first_frame, latents_BFCHW))
        self._writer.submit(self._write)

    def close(self) -> None:
        """Write no more: when this returns, nothing is being written."""
        self._stopping.set()
        self._writer.shutdown(cancel_futures=True)

    def _write(self) -> None:
        video = self._job.specification_hash
        if not ray.get(self._board.spare_decoders.remote(video)):
            return
        while self._unwritten and not self._stopping.is_set():
            first_frame, latents_BFCHW = self._unwritten.pop(0)
            path = band_path(video_id(self._job), self._attempt, first_frame)
            metadata = {"latents_hash": self._job.latents_hash}
            try:
                save_latents(self._output, path, latents_BFCHW, metadata)
            except StorageError as error:
                # Decoders wait for the whole, and that says whether the video fails.
                _LOG.warning("the decode does not begin early: %s", error)
                self._stopping.set()
                return
            stop = first_frame + latents_BFCHW.shape[1]
            self._board.add_band.remote(video, self._attempt, first_frame, stop)
