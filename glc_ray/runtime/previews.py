"""The coordinator's side of previews: takes a few predicted frames, and waits for nothing."""

from __future__ import annotations

import logging
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from glc_ray.config import VideoJob
from glc_ray.media.contact_sheet import evenly_spaced
from glc_ray.media.preview_sheet import PreviewHead, PreviewLabel
from glc_ray.protocols import ModelFacts, StepResult
from glc_ray.runtime.farm import Farm
from glc_ray.runtime.messages import Array, Preview
from glc_ray.sampler import StepReport

_LOG = logging.getLogger(__name__)
_MAX_FAILURES = 3
"""One after another, before a video has no more previews."""


class Previews:
    """Has previews of one video made while it is denoised.

    Reads what it is given and changes none of it; a preview that is due while the last one is not
    done yet is left out; one that fails is a line in the log.

    Args:
        farm: of the run; one without a previewer makes none.
        job: the video.
        name: of its files.
        model: facts of its model.
        next_step: the loop's position to begin at.
    """

    def __init__(
        self,
        farm: Farm,
        job: VideoJob,
        name: str,
        model: ModelFacts,
        *,
        next_step: int = 0,
    ) -> None:
        pipeline = job.pipeline
        self._farm = farm
        self._every = pipeline.preview.every if farm.previewer is not None else 0
        self._num_steps = pipeline.sampling.num_steps
        self._job, self._name, self._step = job, name, next_step
        self._columns = columns(model, pipeline.video.num_frames, pipeline.preview.frames)
        self._head = PreviewHead(
            video=job.latents_hash,
            title=job.prompt,
            frames=tuple(pixel for _, pixel in self._columns),
            fps=float(pipeline.video.fps),
        )
        self._predicted: Array | None = None
        self._asked: Any = None
        self._failures = 0

    def predicted(self, result: StepResult) -> None:
        """A step predicted the clean latents: keep a copy of those that will be shown, if any."""
        if self._is_due(self._step):
            self._predicted = self._take(result.pred_original_sample)

    def step(self, report: StepReport, latents_BFCHW: Tensor) -> None:
        """A step is done; of the last one the final latents are shown."""
        self._step = report.step_index + 1
        taken, self._predicted = self._predicted, None
        if self._step == report.num_steps and self._is_due(report.step_index):
            taken = self._take(latents_BFCHW)
        if taken is None:
            return
        preview = Preview(
            latents_BFCHW=taken,
            video=self._job.specification_hash,
            name=self._name,
            head=self._head,
            label=PreviewLabel(self._step, report.num_steps, report.timestep),
        )
        try:
            self._asked = self._farm.previewer.add.remote(preview, self._farm.board)
        except RayError as error:
            self._fail(error)

    def _is_due(self, step_index: int) -> bool:
        if not self._every:
            return False
        done = step_index + 1
        return (done % self._every == 0 or done == self._num_steps) and self._is_idle()

    def _is_idle(self) -> bool:
        """Whether the last preview is done, or has failed."""
        if self._asked is None:
            return True
        if not ray.wait([self._asked], timeout=0)[0]:
            return False
        asked, self._asked = self._asked, None
        try:
            ray.get(asked)
            self._failures = 0
        except RayError as error:
            self._fail(error)
        return self._every > 0

    def _fail(self, error: RayError) -> None:
        self._failures += 1
        why = error.cause if isinstance(error, RayTaskError) else error
        _LOG.warning("a preview failed, which the video does not mind: %s", why)
        if self._failures == _MAX_FAILURES:
            _LOG.warning("no more previews of this video: %d failed in a row", _MAX_FAILURES)
            self._every = 0

    def _take(self, latents_BFCHW: Tensor) -> Array:
        frames = [latent for latent, _ in self._columns]
        array: Array = latents_BFCHW[:, frames].float().cpu().numpy()
        return array


def columns(model: ModelFacts, num_frames: int, picks: int) -> tuple[tuple[int, int], ...]:
    """(latent frame, first pixel frame that it gives), evenly spaced over a video.

    Latent frames in front that are not decoded, and those whose pixels are cut off, are none.
    """
    first, ratio = model.leading_latent_frames, model.temporal_ratio
    shown = evenly_spaced((num_frames - 1) // ratio + 1, picks)
    return tuple((first + at, max(0, ratio * (at - 1) + 1)) for at in shown)
