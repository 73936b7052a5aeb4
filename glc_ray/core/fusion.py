"""One prediction for the whole video, from the predictions of its windows.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from glc_ray.protocols import Path, StepPlan, Window


class Fusion:
    """Fuses the window predictions of one step: Σ share·T(path) (Eq. 3, 8, 9).

    T(path) is the weighted average, frame by frame, of that path's predictions. With weights
    normalised per frame it is the minimiser of Eq. 8. Predictions are added one at a time, in plan
    order and in float32, so the result does not depend on which one was ready first. One window of
    weight 1 in one path of share 1 comes back bit for bit. At most two tensors of the full length
    exist at once: the sum of the current path, and the mix of those before it.

    Frames can be taken as soon as no window is missing that counts for them.
    """

    def __init__(
        self,
        plan: StepPlan,
        shape_BFCHW: tuple[int, ...],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Prove the plan and start with nothing added.

        Args:
            plan: the step's plan; its shares sum to 1.
            shape_BFCHW: shape (B, K, C, H, W) of the video's latents.
            device: where to accumulate.
            dtype: of the sums and the result; float32 but in proofs.

        Raises:
            ValueError: see `check_plan`.
        """
        check_plan(plan, shape_BFCHW[1])
        self._shape_BFCHW = tuple(shape_BFCHW)
        self._device = device
        self._dtype = dtype
        self._pending = [
            (path, window) for path in reversed(plan.paths) for window in reversed(path.windows)
        ]
        self._last_path = [path for path in plan.paths if path.share > 0][-1]
        self._finished = _finished(self._last_path, shape_BFCHW[1])
        self._sum_BFCHW: Tensor | None = None
        self._totals: list[float] = []
        self._fused_BFCHW: Tensor | None = None
        self._num_fused = 0
        self.num_final = 0
        """Leading frames whose prediction no missing window changes."""

    def add(self, window: Window, prediction_BFCHW: Tensor) -> None:
        """Take the next window's prediction, the guided model output (B, L, C, H, W).

        Windows come in index order; any other order is a bug of the caller and asserted.
        """
        assert self._pending, f"window {window.index} comes after the last of the plan"
        path, expected = self._pending.pop()
        assert window == expected, f"got window {window.index} in place of {expected.index}"
        assert prediction_BFCHW.shape[1] == len(window.frames), "a prediction of a wrong length"
        if path.share == 0:
            return
        if self._sum_BFCHW is None:
            self._sum_BFCHW = self._zeros()
            # Once for all bands: of a long video a path has as many windows as there are bands.
            self._totals = frame_weights(path, self._shape_BFCHW[1])
        _accumulate(self._sum_BFCHW, window, prediction_BFCHW)
        if path is self._last_path:
            self.num_final = self._finished.pop()
        elif window == path.windows[-1]:
            self._mix(path, slice(0, self._shape_BFCHW[1]))
            self._sum_BFCHW = None

    def result(self, frames: slice | None = None) -> Tensor:
        """The fused prediction (B, k, C, H, W) of some frames, or of all; they must be final."""
        frames = slice(0, self._shape_BFCHW[1]) if frames is None else frames
        assert frames.stop <= self.num_final, (
            f"the prediction of window {self._pending[-1][1].index} is missing"
        )
        if frames.stop > self._num_fused:
            self._mix(self._last_path, slice(self._num_fused, frames.stop))
            self._num_fused = frames.stop
        assert self._fused_BFCHW is not None
        return self._fused_BFCHW[:, frames]

    def _mix(self, path: Path, frames: slice) -> None:
        """Average the sum of a path in some frames, and mix it with those of the paths before."""
        assert self._sum_BFCHW is not None
        totals_F = self._sum_BFCHW.new_tensor(self._totals[frames])
        average_BFCHW = self._sum_BFCHW[:, frames].div_(totals_F[:, None, None, None])
        if self._fused_BFCHW is None or self._fused_BFCHW is self._sum_BFCHW:
            average_BFCHW.mul_(path.share)
            self._fused_BFCHW = self._sum_BFCHW
        else:
            self._fused_BFCHW[:, frames].add_(average_BFCHW, alpha=path.share)

    def _zeros(self) -> Tensor:
        return torch.zeros(self._shape_BFCHW, dtype=self._dtype, device=self._device)


def check_plan(plan: StepPlan, num_latent_frames: int) -> None:
    """Prove that fusion under ``plan`` is a weighted average at every frame of the video.

    Raises:
        ValueError: a frame has no weight in a path that counts (share > 0), a share is negative,
            or the shares do not sum to 1.
    """
    total_share = math.fsum(path.share for path in plan.paths)
    if abs(total_share - 1) > 1e-6 or any(path.share < 0 for path in plan.paths):
        shares = ", ".join(f"{path.name} {path.share}" for path in plan.paths)
        raise ValueError(f"Shares of paths must be 0 or more and sum to 1; got {shares or 'none'}.")
    for path in plan.paths:
        totals = frame_weights(path, num_latent_frames)
        if path.share > 0 and min(totals) <= 0:
            raise ValueError(
                f"Latent frame {totals.index(min(totals))} has no weight in the {path.name} path "
                f"of step {plan.step_index}: no window of that path covers it."
            )


def frame_weights(path: Path, num_latent_frames: int) -> list[float]:
    """Summed weight of each latent frame over the windows of ``path`` (the divisor of Eq. 3)."""
    totals = [0.0] * num_latent_frames
    for window in path.windows:
        for frame, weight in zip(window.frames, window.weights, strict=True):
            assert 0 <= frame < num_latent_frames, f"window {window.index} has no frame {frame}"
            totals[frame] += weight
    return totals


def _finished(path: Path, num_latent_frames: int) -> list[int]:
    """Leading frames that no later window counts for, after each of ``path``; the last first."""
    finished = [num_latent_frames]
    for window in reversed(path.windows[1:]):
        counting = zip(window.frames, window.weights, strict=True)
        first = min((frame for frame, weight in counting if weight > 0), default=finished[-1])
        finished.append(min(finished[-1], first))
    return finished


def _accumulate(sum_BFCHW: Tensor, window: Window, prediction_BFCHW: Tensor) -> None:
    # Frame by frame, because padding repeats a frame and a scatter of repeated indices has no
    # fixed order of summation on every device.
    for position, (frame, weight) in enumerate(zip(window.frames, window.weights, strict=True)):
        if weight > 0:
            sum_BFCHW[:, frame].add_(prediction_BFCHW[:, position], alpha=weight)
