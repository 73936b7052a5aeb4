"""What went wrong, and what it cost."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.panels import (
    OUTPUT,
    added,
    board,
    graph,
    number,
    of,
)
from glc_ray import telemetry as t

_RED_FROM_1 = ((1, "red"),)


def faults() -> dashboard.Dashboard:
    """What went wrong, and what it cost."""
    return board(
        "glc-faults",
        "glc-ray: faults",
        "What died is replaced and nothing that was stored is done again: counts here cost time, "
        "and only failed videos cost videos.",
        number(
            "Failed videos",
            "`glc-ray status OUTPUT` says why, `glc-ray retry OUTPUT` renders them again.",
            "short",
            (added(t.VIDEOS, state="failed"), "failed"),
            limits=_RED_FROM_1,
        ),
        number(
            "Retries",
            "Batches that were computed again, in the last ten minutes.",
            "short",
            (f"sum(glc:retries:last10m{{{OUTPUT}}})", "retries"),
            limits=((1, "orange"), (10, "red")),
        ),
        number(
            "Restarts",
            "Of workers, in the last half hour.",
            "short",
            (f"sum(glc:worker_restarts:last30m{{{OUTPUT}}})", "restarts"),
            limits=((1, "orange"), (3, "red")),
        ),
        number(
            "Not finite",
            "Predictions with NaN or infinite values in the last ten minutes; each fails its "
            "video: try --set model.dtype=float32.",
            "short",
            (f"sum(glc:nonfinite:last10m{{{OUTPUT}}})", "predictions"),
            limits=_RED_FROM_1,
        ),
        number(
            "Halved batches",
            "That did not fit into device memory: lower denoise.batch_size.",
            "short",
            (f"floor({added(t.HALVED_BATCHES)})", "batches"),
            limits=((1, "orange"),),
        ),
        number(
            "Alerts",
            "Of glc-ray that fire now.",
            "short",
            ('count(ALERTS{alertname=~"Glc.*", alertstate="firing"}) or vector(0)', "firing"),
            limits=_RED_FROM_1,
        ),
        graph(
            "Retries by reason",
            "In ten minutes: the worker was lost, it failed, or it was silent for longer than "
            "resources.denoisers.patience allows.",
            "short",
            (f"sum by (reason) (glc:retries:last10m{{{OUTPUT}}})", "{{reason}}"),
        ),
        graph(
            "Restarts by worker",
            "In half an hour. One that comes again and again is a sick node or device.",
            "short",
            (f"sum by (worker) (glc:worker_restarts:last30m{{{OUTPUT}}})", "worker {{worker}}"),
            limits=((3, "red"),),
        ),
        graph(
            "Late answers that were dropped",
            "Of workers that were given up too early: raise resources.denoisers.patience.",
            "short",
            (f"floor({added(t.FENCED_RESULTS)})", "answers"),
        ),
        graph(
            "Videos that ended otherwise than done",
            "Of the outputs, whichever run they were of.",
            "short",
            (added(t.VIDEOS, "state", state="failed|cancelled|invalid"), "{{state}}"),
        ),
        graph(
            "Free storage",
            "Share of the output's file system, and of each node's disk, where objects spill to.",
            "percentunit",
            (f"min by (output) ({of(t.STORAGE_FREE)} / {of(t.STORAGE_SIZE)})", "{{output}}"),
            ("ray_node_disk_free / (ray_node_disk_free + ray_node_disk_usage)", "node {{ip}}"),
            limits=((None, "red"), (0.1, "transparent")),
            most=1,
        ),
        graph(
            "Sign of life",
            "Seconds since the run said something last; a run that died stays at it.",
            "s",
            (f"time() - {of(t.RUN_SIGN)} and {of(t.RUN_RUNNING)} == 1", "{{output}}"),
            limits=((60, "red"),),
        ),
    )
