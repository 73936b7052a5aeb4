"""What crosses processes: plain dataclasses of numbers, strings and numpy arrays.

Arrays, not tensors: Ray shares numpy between the processes of a node without a copy, read-only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from glc_ray.protocols import Forward

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


@dataclass(frozen=True)
class VideoProgress:
    """Where a video stands, for displays."""

    name: str
    state: str
    """queued, loading, denoising, decoding, done or failed."""
    steps_done: int = 0
    num_steps: int = 0
    windows_done: int = 0
    num_windows: int = 0
    """Windows of the current step."""
    frames_done: int = 0
    num_frames: int = 0
