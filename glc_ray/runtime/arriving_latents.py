"""Final latents as what a decoder reads from, while the last of them are still denoised."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import ray
import torch
from torch import Tensor

from glc_ray.config import VideoJob
from glc_ray.protocols import UserError
from glc_ray.runtime.arrivals import Arrival
from glc_ray.runtime.rows import video_id
from glc_ray.runtime.stored_latents import StoredLatents, are_stored, stored_timings
from glc_ray.store.latents import load_latents
from glc_ray.store.paths import band_path, work_latents_path
from glc_ray.store.storage import StorageError

if TYPE_CHECKING:
    from glc_ray.store.output import Output

_LOG = logging.getLogger(__name__)
_LOOK_S = 0.2
"""Between two looks at the board: a decoder that waits does nothing else."""


_UNKNOWN_S = 60.0
"""That a decoder waits for a video of which the board knows nothing."""
_FORGOTTEN = (
    "its denoising ended, and how is not known, for the board died; the same command goes on from "
    "what is stored"
)


class NoMoreLatentsError(Exception):
    """The video failed or was cancelled while its decoder waited; ``arrival`` says why."""

    def __init__(self, arrival: Arrival) -> None:
        super().__init__(arrival.error)
        self.arrival = arrival


def await_arrival(
    output: Output, board: Any, job: VideoJob, is_enough: Callable[[Arrival], bool]
) -> Arrival:
    """Wait until enough of a video's latents are stored, or no more will be.

    Whoever denoises it tells a board that was lost again. Where nobody does, that has ended, and
    the file is there or will never be.
    """
    known_at = time.monotonic()
    while True:
        arrival: Arrival = ray.get(board.arrival.remote(job.specification_hash))
        if arrival.has_ended or is_enough(arrival):
            return arrival
        if arrival.attempt:
            known_at = time.monotonic()
        elif are_stored(output, job):
            return Arrival(timings=stored_timings(output, job), ended_at=time.time())
        elif time.monotonic() - known_at > _UNKNOWN_S:
            return Arrival(status="failed", error=_FORGOTTEN, ended_at=time.time())
        time.sleep(_LOOK_S)


class ArrivingLatents:
    """Final latents of one video, of which a range is waited for when it is asked for.

    Stands for a tensor (1, K, C, H, W) of which only ranges of frames are taken, in rising order.
    They come from bands while the video is denoised, and from its file once that is whole: the same
    bits, also when another attempt has begun meanwhile.
    """

    def __init__(
        self,
        output: Output,
        board: Any,
        job: VideoJob,
        shape_BFCHW: tuple[int, ...],
        *,
        leading: int,
    ) -> None:
        """Prepare; nothing is read or waited for.

        Args:
            output: where the video goes.
            board: handle of the board.
            job: of the video.
            shape_BFCHW: of its latents, (1, K, C, H, W).
            leading: latent frames in front that are not decoded.
        """
        self._output, self._board, self._job, self._leading = output, board, job, leading
        batch, num_frames, *picture = shape_BFCHW
        self.shape = (batch, num_frames - leading, *picture)
        self.waited_s = 0.0
        """Seconds of waiting so far."""
        self._file: StoredLatents | None = None
        self._bands: dict[int, Tensor] = {}
        self._trusts_bands = True

    def as_tensor(self) -> Tensor:
        """Itself, for those who only take ranges of frames of a tensor."""
        return cast(Tensor, self)

    def __getitem__(self, index: tuple[slice, slice]) -> Tensor:
        """Frames ``index[1]`` of all videos ``index[0]``, which is one.

        Raises:
            NoMoreLatentsError: the video failed or was cancelled before.
            UserError: the file of latents is corrupted.
            StorageError: it cannot be read.
        """
        if self._file is None:
            start, stop = (at + self._leading for at in (index[1].start, index[1].stop))
            arrival = self._await(stop)
            if arrival.timings is None:
                try:
                    return self._from_bands(arrival, start, stop)
                except (UserError, StorageError) as error:
                    # The whole file will be there, or say what is wrong.
                    _LOG.warning("the decode waits for all latents: %s", error)
                    self._trusts_bands = False
                    self._await(stop)
            path = work_latents_path(video_id(self._job))
            self._file = StoredLatents(self._output, path, leading=self._leading)
            self._bands.clear()
        return self._file[index]

    def _await(self, stop: int) -> Arrival:
        begun = time.monotonic()
        arrival = await_arrival(
            self._output,
            self._board,
            self._job,
            lambda it: self._trusts_bands and it.num_frames >= stop,
        )
        self.waited_s += time.monotonic() - begun
        if arrival.status:
            raise NoMoreLatentsError(arrival)
        return arrival

    def _from_bands(self, arrival: Arrival, start: int, stop: int) -> Tensor:
        """Latent frames ``start`` to ``stop`` of the video, which are stored in bands."""
        borders = (0, *arrival.bands)
        wanted = [
            first
            for first, last in zip(borders, arrival.bands, strict=False)
            if first < stop and last > start
        ]
        # Those before are not asked for again.
        self._bands = {first: self._band(arrival.attempt, first) for first in wanted}
        parts = torch.cat(list(self._bands.values()), dim=1)
        return parts[:, start - wanted[0] : stop - wanted[0]]

    def _band(self, attempt: str, first: int) -> Tensor:
        if first in self._bands:
            return self._bands[first]
        path = band_path(video_id(self._job), attempt, first)
        latents, _ = load_latents(self._output, path)
        return latents
