"""What the pool counts of its workers."""

from __future__ import annotations

from typing import Any

from glc_ray import telemetry
from glc_ray.runtime.metrics import Telemetry
from glc_ray.store.run_status import Occupancy

_REASONS = ("lost", "failed", "silent")


class PoolMetrics:
    """A worker's label is its position in the pool."""

    def __init__(self, counted: Telemetry) -> None:
        self._recorder = counted.recorder()

    def begin(self, num_workers: int) -> None:
        """Show all counters, before anything happens: what is not there has no rate."""
        self._recorder.begin(telemetry.FENCED_RESULTS)
        for reason in _REASONS:
            self._recorder.begin(telemetry.RETRIES, reason=reason)
        for worker in map(str, range(num_workers)):
            self._recorder.begin(telemetry.WORKER_BUSY_SECONDS, worker=worker)
            self._recorder.begin(telemetry.WORKER_RESTARTS, worker=worker)

    def stand(self, now: Occupancy) -> None:
        """What the workers do now."""
        self._recorder.set(telemetry.QUEUE_DEPTH, now.waiting)
        self._recorder.set(telemetry.WORKERS, now.workers, state="wanted")
        self._recorder.set(telemetry.WORKERS, now.ready, state="ready")
        self._recorder.set(telemetry.WORKERS, now.busy, state="busy")

    def answered(self, worker: Any, seconds: float, *, is_taken: bool) -> None:
        """A worker answered after ``seconds`` of a forward; the fence takes the answer, or not."""
        self._recorder.add(telemetry.WORKER_BUSY_SECONDS, seconds, worker=str(worker))
        if not is_taken:
            self._recorder.add(telemetry.FENCED_RESULTS)

    def failed(self, worker: Any, reason: str) -> None:
        """A worker did not answer, is restarted, and its task waits again."""
        self._recorder.add(telemetry.RETRIES, reason=reason)
        self._recorder.add(telemetry.WORKER_RESTARTS, worker=str(worker))
