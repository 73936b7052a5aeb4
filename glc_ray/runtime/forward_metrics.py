"""What a coordinator counts of the forwards that it asks for."""

from __future__ import annotations

from glc_ray import telemetry
from glc_ray.protocols import Forward, StepPlan
from glc_ray.runtime.messages import WindowBatch, WindowBatchResult
from glc_ray.runtime.metrics import Recorder


class ForwardMetrics:
    """Of one video, whose label is its slot."""

    def __init__(self, recorder: Recorder, slot: int) -> None:
        self._recorder = recorder
        self._slot = str(slot)
        recorder.begin(telemetry.ANCHOR_FORWARDS)
        recorder.begin(telemetry.HALVED_BATCHES)

    def plan(self, plan: StepPlan) -> None:
        """A step begins."""
        share = sum(path.share for path in plan.paths if path.name == "global")
        self._recorder.set(telemetry.GAMMA, share, slot=self._slot)

    def sent(self, batch: WindowBatch, anchor_bytes: int) -> None:
        """A batch goes to a worker."""
        self._recorder.add(telemetry.MOVED_BYTES, batch.clips_BFCHW.nbytes, kind="clips")
        self._recorder.add(telemetry.MOVED_BYTES, anchor_bytes, kind="anchors")

    def answered(self, forward: Forward, answer: WindowBatchResult) -> None:
        """Its predictions are there."""
        path, recorder = forward.path, self._recorder
        recorder.add(telemetry.WINDOWS, len(forward.windows), path=path)
        recorder.observe(telemetry.FORWARD_SECONDS, answer.forward_s, path=path)
        recorder.add(telemetry.ANCHOR_FORWARDS, answer.anchor_forwards)
        recorder.add(telemetry.HALVED_BATCHES, answer.halvings)
        recorder.add(telemetry.MOVED_BYTES, answer.predictions_BFCHW.nbytes, kind="predictions")

    def nonfinite(self) -> None:
        """A prediction has NaN or infinite values."""
        self._recorder.add(telemetry.NONFINITE)
