"""Every metric, declared once: what is exported, what dashboards, rules and tests speak of.

Two sources. *Actors* count what happens while a run lasts; Ray exports it (``ray_`` in front of the
name) from each node's agent, and it is gone minutes after the run. *Farm* metrics are read from the
output, by ``glc-ray status OUTPUT --serve-metrics PORT``, and outlive every run.

Labels are bounded, so that a catalog of any length costs the same: no metric has a label by window,
frame or step. A video's own metrics are labelled by its ``slot``, the smallest number that no video
in denoising had when it began; ``glc_video_info`` says who has which slot now. The names of videos
are labels of two farm metrics alone, while they are in work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

PREFIX = "glc_"
"""Of every name."""

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]
Source: TypeAlias = Literal["actors", "farm"]

VIDEO_STATES = (
    "queued",
    "loading",
    "denoising",
    "decoding",
    "done",
    "failed",
    "cancelled",
    "invalid",
)
"""Of a video, in the order in which it comes to them; invalid: a row of a catalog that is none."""

STAGES = ("prompt", "denoise", "fuse", "refine", "forward", "decode", "encode")
"""Of a video, by what the manifest has seconds of."""

MOST_SCORES = 64
"""Scores that the exporter shows at most; there are some two dozen, and VBench's."""

MOST_IN_WORK = 256
"""Videos in work whose names the exporter shows at most."""

Labels: TypeAlias = dict[str, tuple[str, ...] | str]
"""The values that each label may have, or in words what bounds their number."""

OUTPUT: Labels = {"output": "one a run: its --output, without the keys that a URI may carry"}
_PATH: Labels = {"path": ("global", "local")}
_SLOT: Labels = {"slot": "as many as videos are denoised at once"}
_WORKER: Labels = {"worker": "its position in the pool, as many as --workers"}
_SCORE: Labels = {"score": f"names of scores, at most {MOST_SCORES}"}
_VIDEO: Labels = {"video": f"names of videos in work, at most {MOST_IN_WORK}"}


@dataclass(frozen=True, eq=False)
class Metric:
    """What is exported under one name."""

    name: str
    kind: Kind
    unit: str
    """Of Grafana's units: s, bytes, percentunit, short for plain numbers."""
    help: str
    labels: Labels = field(default_factory=lambda: OUTPUT)
    source: Source = "actors"
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram."""

    @property
    def exported(self) -> str:
        """Its name in Prometheus; of a histogram without ``_bucket``, ``_sum``, ``_count``."""
        name = f"ray_{self.name}" if self.source == "actors" else self.name
        return f"{name}_total" if self.kind == "counter" else name

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its series in Prometheus."""
        if self.kind != "histogram":
            return (self.exported,)
        return tuple(f"{self.exported}_{part}" for part in ("bucket", "sum", "count"))

    def check(self, labels: Mapping[str, str]) -> None:
        """Refuse labels that are not declared, and values that are not theirs (ValueError)."""
        if labels.keys() != self.labels.keys():
            raise ValueError(f"{self.name} has the labels {[*self.labels]}, not {[*labels]}")
        for label, value in labels.items():
            allowed = self.labels[label]
            if isinstance(allowed, tuple) and value not in allowed:
                raise ValueError(f"{self.name}: {label} is one of {allowed}, not {value!r}")


# Denoising

WINDOWS = Metric("glc_windows", "counter", "short", "Windows predicted.", OUTPUT | _PATH)
FORWARD_SECONDS = Metric(
    "glc_forward_seconds",
    "histogram",
    "s",
    "Seconds of a model forward (a batch of windows) by path; its count is the forwards. Ray makes "
    "its sum of the middles of buckets: for means, take glc_worker_busy_seconds.",
    OUTPUT | _PATH,
    buckets=(0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 7.5, 10, 20, 30, 60, 120, 300),
)
ANCHOR_FORWARDS = Metric(
    "glc_anchor_forwards",
    "counter",
    "short",
    "Forwards beyond the windows' own, for anchors that a worker did not have (ABAM).",
)
HALVED_BATCHES = Metric(
    "glc_halved_batches",
    "counter",
    "short",
    "Batches that were divided for want of device memory: it may change the last bits.",
)
NONFINITE = Metric(
    "glc_nonfinite",
    "counter",
    "short",
    "Predictions with NaN or infinite values; each fails its video.",
)
STEPS = Metric("glc_steps", "counter", "short", "Denoising steps done.", OUTPUT | _SLOT)
STEP_SECONDS = Metric(
    "glc_step_seconds",
    "counter",
    "s",
    "Seconds of steps by part: waiting for predictions; fusion with the noise scheduler's step; "
    "refinement (VMCR); checkpoints, which are written beside the work.",
    OUTPUT | _SLOT | {"part": ("denoise", "fuse", "refine", "checkpoint")},
)
GAMMA = Metric(
    "glc_gamma",
    "gauge",
    "percentunit",
    "Share of the global path in the last step's fused prediction (Eq. 9).",
    OUTPUT | _SLOT,
)
MOTION_LOSS = Metric(
    "glc_motion_loss",
    "gauge",
    "short",
    "Motion loss (Eq. 12-14) of the last step's predicted clean latents, mean of a sample's pairs "
    "of motions, before and after refinement (VMCR).",
    OUTPUT | _SLOT | {"when": ("before", "after")},
)
MOVED_BYTES = Metric(
    "glc_moved_bytes",
    "counter",
    "bytes",
    "Bytes moved: clips and anchors to workers, predictions back; latents, checkpoints and "
    "segments into storage.",
    OUTPUT | {"kind": ("clips", "anchors", "predictions", "latents", "checkpoints", "segments")},
)

# The pool

QUEUE_DEPTH = Metric("glc_queue_depth", "gauge", "short", "Batches of windows that no worker has.")
WORKERS = Metric(
    "glc_workers",
    "gauge",
    "short",
    "Denoisers that were asked for, that live and have loaded their model, that compute now.",
    OUTPUT | {"state": ("wanted", "ready", "busy")},
)
WORKER_BUSY_SECONDS = Metric(
    "glc_worker_busy_seconds",
    "counter",
    "s",
    "Seconds that a worker spent in forwards; its rate is the share of time that it was busy.",
    OUTPUT | _WORKER,
)
RETRIES = Metric(
    "glc_retries",
    "counter",
    "short",
    "Batches that were not answered and wait again: the worker was lost, it failed, or it was "
    "silent for too long.",
    OUTPUT | {"reason": ("lost", "failed", "silent")},
)
FENCED_RESULTS = Metric(
    "glc_fenced_results",
    "counter",
    "short",
    "Late answers of workers that were given up, dropped.",
)
WORKER_RESTARTS = Metric(
    "glc_worker_restarts",
    "counter",
    "short",
    "Times that a worker was lost or replaced.",
    OUTPUT | _WORKER,
)

# Decode and encode

FRAMES = Metric("glc_frames", "counter", "short", "Frames decoded and encoded into segments.")
DECODE_SECONDS = Metric(
    "glc_decode_seconds", "counter", "s", "Seconds of decoding them, summed over decoders."
)
ENCODE_SECONDS = Metric(
    "glc_encode_seconds", "counter", "s", "Seconds of encoding them, summed over decoders."
)

# The farm

OUTPUT_READ = Metric(
    "glc_output_read",
    "gauge",
    "short",
    "1 where the output could be read at this scrape; else nothing more is known of it.",
    source="farm",
)
VIDEOS = Metric(
    "glc_videos",
    "gauge",
    "short",
    "Videos by state. Of a run that has ended, those that it left count as queued.",
    OUTPUT | {"state": VIDEO_STATES},
    "farm",
)
RUN_RUNNING = Metric(
    "glc_run_running", "gauge", "short", "1 while a run is at the output, else 0.", source="farm"
)
RUN_SIGN = Metric(
    "glc_run_sign_timestamp_seconds",
    "gauge",
    "s",
    "When the last run gave its last sign, in seconds since 1970.",
    source="farm",
)
VIDEO_INFO = Metric(
    "glc_video_info",
    "gauge",
    "short",
    "1 for each video in denoising: who has which slot.",
    OUTPUT | _SLOT | _VIDEO,
    "farm",
)
VIDEO_PROGRESS = Metric(
    "glc_video_progress",
    "gauge",
    "percentunit",
    "How much of a video in work is done; denoising is taken for nine tenths.",
    OUTPUT | _VIDEO,
    "farm",
)
RENDERED_FRAMES = Metric(
    "glc_rendered_frames", "gauge", "short", "Frames of all videos that are done.", source="farm"
)
RENDERED_BYTES = Metric(
    "glc_rendered_bytes", "gauge", "bytes", "Size of all videos that are done.", source="farm"
)
RENDERED_SECONDS = Metric(
    "glc_rendered_seconds",
    "gauge",
    "s",
    "Seconds that the videos of the manifest took, by stage (forward: summed over workers).",
    OUTPUT | {"stage": STAGES},
    "farm",
)
SCORE = Metric(
    "glc_score",
    "gauge",
    "short",
    "A score over the videos that have it (glc-ray evaluate): its mean, and what a twentieth of "
    "them are below (low) and above (high).",
    OUTPUT | _SCORE | {"of": ("mean", "low", "high")},
    "farm",
)
SCORED_VIDEOS = Metric(
    "glc_scored_videos", "gauge", "short", "Videos that have a score.", OUTPUT | _SCORE, "farm"
)
STORAGE_FREE = Metric(
    "glc_storage_free_bytes",
    "gauge",
    "bytes",
    "Free on the output's file system; not of object stores.",
    source="farm",
)
STORAGE_SIZE = Metric(
    "glc_storage_size_bytes",
    "gauge",
    "bytes",
    "Size of the output's file system; not of object stores.",
    source="farm",
)

METRICS: tuple[Metric, ...] = tuple(
    value for value in list(globals().values()) if isinstance(value, Metric)
)
"""All of them, in the order above."""
