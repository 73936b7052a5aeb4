"""Who computes, how fast, on what."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.panels import (
    added,
    board,
    graph,
    quantile,
    rate,
    ratio,
    row,
)
from glc_ray import telemetry as t

_GOOD_ABOVE_08 = ((None, "red"), (0.5, "orange"), (0.8, "green"))


def workers() -> dashboard.Dashboard:
    """Who computes, how fast, on what."""
    forwards = rate(t.FORWARD_SECONDS, part="_count")
    return board(
        "glc-workers",
        "glc-ray: workers",
        "Denoisers and the nodes that they are on. A worker's label is its position in the pool, "
        "whichever process has it.",
        graph(
            "Workers",
            "Asked for; alive, with their model loaded; computing now.",
            "short",
            (added(t.WORKERS, "state"), "{{state}}"),
        ),
        graph(
            "Busy share of each worker",
            "Of its time, in forwards.",
            "percentunit",
            (rate(t.WORKER_BUSY_SECONDS, "worker"), "worker {{worker}}"),
            limits=_GOOD_ABOVE_08,
            most=1,
        ),
        graph(
            "Seconds a forward",
            "Of a batch of windows: half of them take less than the first line of a path, 95 of "
            "100 less than the second.",
            "s",
            (quantile(0.5, t.FORWARD_SECONDS, "path"), "{{path}}, median"),
            (quantile(0.95, t.FORWARD_SECONDS, "path"), "{{path}}, 95%"),
        ),
        graph(
            "Forwards a second",
            "Batches of windows by path, and those that only filled a worker's anchor cache.",
            "short",
            (rate(t.FORWARD_SECONDS, "path", part="_count"), "{{path}}"),
            (rate(t.ANCHOR_FORWARDS), "anchors"),
        ),
        graph(
            "Mean seconds a forward",
            "Time in forwards by their number; it rises where workers share a device.",
            "s",
            (ratio(rate(t.WORKER_BUSY_SECONDS), forwards), "mean"),
        ),
        graph(
            "Anchor forwards for each forward",
            "What more workers cost: each computes the anchor of the path that it works on.",
            "percentunit",
            (ratio(rate(t.ANCHOR_FORWARDS), forwards), "anchors"),
            limits=((0.3, "orange"),),
        ),
        row("Nodes"),
        graph(
            "Processors of each node",
            "Share in use.",
            "percent",
            ("ray_node_cpu_utilization", "{{ip}}"),
            most=100,
        ),
        graph(
            "Memory of each node",
            "In use, with that of objects.",
            "bytes",
            ("ray_node_mem_used", "{{ip}}"),
        ),
    )
