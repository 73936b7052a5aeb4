"""Stored latents as what a decoder reads from: never more of them in memory than a block.

And what they took, in a file of its own: that of the latents has the same bytes each time.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from glc_ray.config import VideoJob
from glc_ray.foreign import read_facts
from glc_ray.protocols import UserError
from glc_ray.runtime.messages import Timings
from glc_ray.runtime.rows import video_id
from glc_ray.store.latents import load_latents, read_header
from glc_ray.store.paths import latents_path, timings_path, work_latents_path
from glc_ray.store.storage import StorageError

if TYPE_CHECKING:
    from glc_ray.store.output import Output

_LOG = logging.getLogger(__name__)
_BLOCK_FRAMES = 24


def are_stored(output: Output, job: VideoJob) -> bool:
    """Whether all final latents of a video are there.

    Raises:
        StorageError: storage cannot be read.
    """
    return _are_at(output, work_latents_path(video_id(job)), job)


def are_kept(output: Output, job: VideoJob, name: str) -> bool:
    """Whether they lie beside the finished video; as ``are_stored``."""
    return _are_at(output, latents_path(name), job)


def store_timings(output: Output, job: VideoJob, timings: Timings) -> None:
    """Keep what a video's latents took, for a run that goes on when they are stored.

    Where it cannot be stored, the video goes on without.
    """
    try:
        output.put_bytes(json.dumps(asdict(timings)).encode(), timings_path(video_id(job)))
    except StorageError as error:
        _LOG.warning("what it took is not kept: %s", error)


def stored_timings(output: Output, job: VideoJob) -> Timings:
    """What a video's latents took, in whichever runs; nothing where that cannot be read."""
    try:
        return read_facts(Timings, output.read_bytes(timings_path(video_id(job)))) or Timings()
    except StorageError as error:
        _LOG.warning("what it took is not known: %s", error)
        return Timings()


def _are_at(output: Output, path: str, job: VideoJob) -> bool:
    try:
        header = read_header(output, path)
    except UserError:
        # None, or torn: they are denoised (again).
        return False
    return header.metadata.get("latents_hash") == job.latents_hash


class StoredLatents:
    """Final latents of one video in a file, read block by block as they are asked for.

    Stands for a tensor (1, K, C, H, W) of which only ranges of frames are taken, in rising order.
    """

    def __init__(self, output: Output, path: str, *, leading: int) -> None:
        """Open.

        Args:
            output: that ``path`` is below.
            path: of the latents file.
            leading: latent frames in front that are not decoded.

        Raises:
            UserError: the file is missing, cut short or corrupted.
        """
        self._output, self._path, self._leading = output, path, leading
        header = read_header(output, path)
        _, self._num_frames, *picture = header.shape
        self.shape = (1, self._num_frames - leading, *picture)
        self._chunk_frames = header.chunk_frames
        self._first = 0
        """Of the file's frames, that the block begins with."""
        self._block = torch.empty((1, 0, *picture))

    def as_tensor(self) -> Tensor:
        """Itself, for those who only take ranges of frames of a tensor."""
        return cast(Tensor, self)

    def __getitem__(self, index: tuple[slice, slice]) -> Tensor:
        """Frames ``index[1]`` of all videos ``index[0]``, which is one."""
        start, stop = (at + self._leading for at in (index[1].start, index[1].stop))
        if not self._first <= start or stop > self._last:
            self._read(start, stop)
        return self._block[:, start - self._first : stop - self._first]

    @property
    def _last(self) -> int:
        """The file's frame after the block."""
        return self._first + self._block.shape[1]

    def _read(self, start: int, stop: int) -> None:
        """A block with frames ``start`` to ``stop``; it ends with a chunk of the file, which is
        read and checked as a whole, so that none is read twice."""
        step = self._chunk_frames
        end = min(-(-max(start + _BLOCK_FRAMES, stop) // step) * step, self._num_frames)
        if self._first <= start < self._last:
            begin, known = self._last, self._block[:, start - self._first :]
            self._first = start
        else:
            begin, known = start - start % step, self._block[:, :0]
            self._first = begin
        read, _ = load_latents(self._output, self._path, frames=slice(begin, end))
        self._block = torch.cat((known, read), dim=1)
