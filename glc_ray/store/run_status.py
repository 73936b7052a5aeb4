"""What a run says of itself, beside the manifest: for whoever looks at the output from anywhere."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

from glc_ray.foreign import read_facts
from glc_ray.store.output import Output
from glc_ray.store.paths import RUN_STATUS

FINAL_STATES = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class VideoProgress:
    """Where a video stands."""

    name: str
    state: str
    """queued, loading, denoising, decoding, done, failed or cancelled."""
    steps_done: int = 0
    num_steps: int = 0
    windows_done: int = 0
    num_windows: int = 0
    """Windows of the current step."""
    frames_done: int = 0
    num_frames: int = 0
    slot: int | None = None
    """In denoising: the smallest number that no other video had when it began."""
    preview: str = ""
    """Path of its preview sheet below the output; empty: none yet."""


@dataclass(frozen=True)
class Occupancy:
    """What the denoisers of a run do now, and did."""

    workers: int = 0
    """That were asked for."""
    ready: int = 0
    """That live and have loaded their model."""
    busy: int = 0
    waiting: int = 0
    """Batches of windows that no worker has."""
    busy_s: float = 0.0
    """Seconds of forwards, summed over workers."""
    restarts: int = 0
    """Of workers that were lost or replaced."""


@dataclass(frozen=True)
class RunStatus:
    """A run: written anew every few seconds while it lasts, and once more at its end."""

    host: str
    pid: int
    started_at: float
    """Seconds since 1970, as all times here."""
    updated_at: float
    state: str = "running"
    """running, done, stopped or failed; one that says running and has not been updated has died."""
    num_videos: int = 0
    """That it was asked for and that were not done before."""
    num_skipped: int = 0
    """That were done before."""
    ended: dict[str, int] = field(default_factory=dict)
    """How many of them have ended since it started, by status."""
    in_work: tuple[VideoProgress, ...] = ()
    workers: Occupancy = Occupancy()

    @property
    def num_queued(self) -> int:
        """Videos that have not begun."""
        return max(0, self.num_videos - sum(self.ended.values()) - len(self.in_work))


def write(output: Output, status: RunStatus) -> None:
    """Replace what the output says of its run.

    Raises:
        StorageError: it cannot be stored.
    """
    output.put_bytes(json.dumps(asdict(status), indent=1).encode(), RUN_STATUS)


def read(output: Output) -> RunStatus | None:
    """What the last run said, or None where there was none (or one of another version)."""
    return read_facts(RunStatus, output.read_bytes(RUN_STATUS))
