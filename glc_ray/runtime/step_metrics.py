"""What a coordinator counts of one video's steps."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from glc_ray import telemetry
from glc_ray.config import VideoJob
from glc_ray.core.vmcr import VMCRWeights, loss
from glc_ray.protocols import StepResult
from glc_ray.runtime.metrics import Recorder, Silent
from glc_ray.sampler import StepReport

_SAMPLE_ELEMENTS = 2**20
"""Latent values whose motion loss is computed: all of a small video, some frames of a large one."""


class StepMetrics:
    """Counts steps, and computes what is costly beside the work.

    Args:
        recorder: takes it.
        job: what is denoised.
        slot: label of the video, bounded by the videos at once.
    """

    def __init__(self, recorder: Recorder, job: VideoJob, slot: int) -> None:
        self._recorder = recorder
        self._slot = str(slot)
        self._checkpoint_s = 0.0
        self._checkpoint_bytes = 0
        vmcr = job.pipeline.glc.vmcr
        self._weights = VMCRWeights(frequency=vmcr.frequency, mse=vmcr.mse, phase=vmcr.phase)
        is_refined = job.pipeline.method == "glc" and vmcr.enabled
        self._watches_motion = is_refined and not isinstance(recorder, Silent)
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="motion")
        self._measuring: Future[None] | None = None
        recorder.begin(telemetry.NONFINITE)
        recorder.begin(telemetry.STEPS, slot=self._slot)

    def step(self, report: StepReport) -> None:
        """A step is done."""
        self._recorder.add(telemetry.STEPS, slot=self._slot)
        self._spend("denoise", report.denoise_s)
        self._spend("fuse", report.fuse_s)
        self._spend("refine", report.update_s)

    def checkpoints(self, write_s: float, written_bytes: int) -> None:
        """What checkpoints have taken so far, in all."""
        self._spend("checkpoint", write_s - self._checkpoint_s)
        self.moved("checkpoints", written_bytes - self._checkpoint_bytes)
        self._checkpoint_s, self._checkpoint_bytes = write_s, written_bytes

    def moved(self, kind: str, num_bytes: int) -> None:
        """Bytes went into storage."""
        self._recorder.add(telemetry.MOVED_BYTES, num_bytes, kind=kind)

    def nonfinite(self) -> None:
        """A fused prediction has NaN or infinite values."""
        self._recorder.add(telemetry.NONFINITE)

    def refined(self, result: StepResult, latents_BFCHW: Tensor) -> None:
        """The method made ``latents_BFCHW`` of a step's result; neither is changed later.

        The motion loss is taken of a sample of frames, beside the work, and of no step that comes
        while another one is being looked at.
        """
        is_free = self._measuring is None or self._measuring.done()
        if self._watches_motion and is_free and result.prev_sample.shape[1] >= 3:
            self._measuring = self._beside.submit(self._measure, result, latents_BFCHW)

    def close(self) -> None:
        """Nothing more comes."""
        self._beside.shutdown(wait=False, cancel_futures=True)

    def _spend(self, part: str, seconds: float) -> None:
        self._recorder.add(telemetry.STEP_SECONDS, seconds, slot=self._slot, part=part)

    def _measure(self, result: StepResult, latents_BFCHW: Tensor) -> None:
        x0_BFCHW = result.pred_original_sample
        frames = slice(0, max(3, _SAMPLE_ELEMENTS // x0_BFCHW[:, :1].numel()))
        before_BFCHW = x0_BFCHW[:, frames].float()
        # What refinement added to z_{t−1} is its step of x̂0 times √ᾱ_{t−1} (Eq. 15).
        moved_BFCHW = latents_BFCHW[:, frames] - result.prev_sample[:, frames]
        after_BFCHW = before_BFCHW + moved_BFCHW.float() / result.signal_scale
        num_pairs = before_BFCHW.shape[1] - 2
        for when, sample_BFCHW in (("before", before_BFCHW), ("after", after_BFCHW)):
            value = loss(sample_BFCHW, self._weights).item() / num_pairs
            self._recorder.set(telemetry.MOTION_LOSS, value, slot=self._slot, when=when)
