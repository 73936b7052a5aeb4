"""What crosses processes: plain dataclasses of numbers, strings and numpy arrays.

Arrays, not tensors: Ray shares numpy between the processes of a node without a copy, read-only.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from glc_ray.media.preview_sheet import PreviewHead, PreviewLabel
from glc_ray.protocols import Forward
from glc_ray.store.run_status import VideoProgress

Array: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True)
class WindowBatch:
    """One model forward: clips of windows of one path of one step."""

    forward: Forward
    """What to do with them."""
    clips_BFCHW: Array
    """(N, L, C, H, W) float32."""


@dataclass(frozen=True)
class WindowBatchResult:
    """The guided predictions of a batch."""

    predictions_BFCHW: Array
    """(N, L, C, H, W) float32."""
    forward_s: float
    """Seconds of the model forward, transfers and a missing anchor included."""
    anchor_forwards: int
    """Forwards beyond the batch's own, for an anchor that the worker did not have."""
    halvings: int = 0
    """How often the batch was divided, for want of memory on the device."""


@dataclass(frozen=True)
class Preview:
    """A row of a preview sheet, to be decoded."""

    latents_BFCHW: Array
    """(1, F, C, H, W) float32: of each column one latent frame of the predicted clean latents."""
    video: str
    """Specification hash."""
    name: str
    """Of the video's files."""
    head: PreviewHead
    label: PreviewLabel


@dataclass(frozen=True)
class Failure:
    """Why a video cannot go on."""

    task: int | None
    """Of its current step; None: no task's fault."""
    reason: str


@dataclass(frozen=True)
class Timings:
    """Seconds of one video's denoising, by what they were spent on."""

    prompt_s: float = 0.0
    denoise_s: float = 0.0
    """Waiting for predictions."""
    fuse_s: float = 0.0
    update_s: float = 0.0
    forward_s: float = 0.0
    """Seconds of model forwards, summed over workers."""
    num_windows: int = 0
    """Window forwards."""
    anchor_forwards: int = 0
    """Forwards of anchors beyond their own windows' (ABAM)."""
    halved_batches: int = 0
    """Batches that were divided for want of device memory: it may change the last bits."""
    resumed_at_step: int = 0
    """Where it went on after the last interruption; 0: it was not interrupted."""
    checkpoint_s: float = 0.0
    """Writing checkpoints, beside the work."""

    def __add__(self, other: Timings) -> Timings:
        """Of the work before an interruption and after it."""
        mine, its = asdict(self), asdict(other)
        return Timings(**{name: mine[name] + its[name] for name in mine})


@dataclass(frozen=True)
class BoardSnapshot:
    """Where all videos stand."""

    in_work: tuple[VideoProgress, ...]
    ended: tuple[VideoProgress, ...]
    """The latest of those that have ended."""
    counts: dict[str, int]
    """How many have ended, by state."""
