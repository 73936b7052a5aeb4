"""Stored latents as what a decoder reads from: never more of them in memory than a block."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from torch import Tensor

from glc_ray.config import VideoJob
from glc_ray.protocols import UserError
from glc_ray.runtime.rows import video_id
from glc_ray.store.latents import load_latents, read_header
from glc_ray.store.paths import work_latents_path

if TYPE_CHECKING:
    from glc_ray.store.output import Output

_BLOCK_FRAMES = 24


def are_stored(output: Output, job: VideoJob) -> bool:
    """Whether all final latents of a video are there.

    Raises:
        StorageError: storage cannot be read.
    """
    try:
        header = read_header(output, work_latents_path(video_id(job)))
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
        _, num_frames, *picture = read_header(output, path).shape
        self.shape = (1, num_frames - leading, *picture)
        self._first = 0
        self._block: Tensor | None = None

    def as_tensor(self) -> Tensor:
        """Itself, for those who only take ranges of frames of a tensor."""
        return cast(Tensor, self)

    def __getitem__(self, index: tuple[slice, slice]) -> Tensor:
        """Frames ``index[1]`` of all videos ``index[0]``, which is one."""
        _, frames = index
        start, stop = frames.start, frames.stop
        if self._block is None or not (
            self._first <= start and stop <= self._first + self._block.shape[1]
        ):
            last = min(max(start + _BLOCK_FRAMES, stop), self.shape[1])
            wanted = slice(start + self._leading, last + self._leading)
            self._block, _ = load_latents(self._output, self._path, frames=wanted)
            self._first = start
        return self._block[:, start - self._first : stop - self._first]
