"""How the whole of a farm goes."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.panels import (
    added,
    bars,
    board,
    graph,
    now,
    number,
    of,
    rate,
    ratio,
    row,
)
from glc_ray import telemetry as t

_RED_FROM_1 = ((1, "red"),)
_GOOD_ABOVE_08 = ((None, "red"), (0.5, "orange"), (0.8, "green"))
_LITTLE_FREE = ((None, "red"), (0.1, "orange"), (0.2, "green"))
_TO_VIDEO = dashboard.DashboardLink("Look at ${__field.labels.video}").url(
    "/d/glc-video?var-output=${__field.labels.output}&var-video=${__field.labels.video}"
    "&${__url_time_range}"
)


def farm() -> dashboard.Dashboard:
    """How the whole of it goes."""
    busy = ratio(rate(t.WORKER_BUSY_SECONDS, "output"), now(t.WORKERS, state="wanted"))
    done_an_hour = f"clamp_min(sum(deriv({of(t.VIDEOS, state='done')}[10m])), 0) * 3600"
    return board(
        "glc-farm",
        "glc-ray: farm",
        "Videos, workers and speed of the chosen outputs. Counts of videos come from the manifest "
        "and outlive runs; the rest is there while a run lasts.",
        row("Now"),
        number("Done", "Videos that are done.", "short", (added(t.VIDEOS, state="done"), "done")),
        number(
            "In work",
            "Videos that are loading, denoising or decoding.",
            "short",
            (added(t.VIDEOS, state="loading|denoising|decoding"), "in work"),
        ),
        number(
            "Queued",
            "Videos that have not begun. Of a run that has ended, those that it left.",
            "short",
            (added(t.VIDEOS, state="queued"), "queued"),
        ),
        number(
            "Failed",
            "Videos that failed; `glc-ray status OUTPUT` says why.",
            "short",
            (added(t.VIDEOS, state="failed"), "failed"),
            limits=_RED_FROM_1,
        ),
        number("Runs", "Outputs that a run is at.", "short", (added(t.RUN_RUNNING), "runs")),
        number(
            "Last sign",
            "Since the run said something last; one that lives does so every two seconds.",
            "s",
            (f"time() - max({of(t.RUN_SIGN)})", "ago"),
            limits=((30, "orange"), (60, "red")),
        ),
        row("Videos"),
        graph(
            "Videos by state",
            "All videos of the outputs, whichever run made them.",
            "short",
            (added(t.VIDEOS, "state"), "{{state}}"),
            stacked=True,
        ),
        graph(
            "Videos an hour",
            "Done, as fast as in the last ten minutes.",
            "short",
            (done_an_hour, "done"),
        ),
        bars(
            "Progress of videos in work",
            "Denoising is taken for nine tenths. A click on a bar opens its video.",
            "percentunit",
            (of(t.VIDEO_PROGRESS), "{{video}}"),
            most=1,
            link=_TO_VIDEO,
        ),
        bars(
            "Where the time of all videos went",
            "Seconds by stage, from the manifest. Forward is summed over workers; denoise is the "
            "coordinators' waiting for it.",
            "s",
            (added(t.RENDERED_SECONDS, "stage"), "{{stage}}"),
        ),
        row("Speed"),
        graph(
            "Windows a second",
            "Predicted, by path.",
            "short",
            (rate(t.WINDOWS, "path"), "{{path}}"),
            stacked=True,
        ),
        graph(
            "Share of the workers' time in forwards",
            "Of all workers that were asked for. Where it is low, something else than the model "
            "takes the time: too few videos at once, fusion, storage, the last videos of a run.",
            "percentunit",
            (busy, "{{output}}"),
            limits=_GOOD_ABOVE_08,
            most=1,
        ),
        graph(
            "Batches that wait, and workers",
            "Nobody should be ready and not busy while more than a few batches wait.",
            "short",
            (added(t.QUEUE_DEPTH), "batches that wait"),
            (added(t.WORKERS, "state"), "workers {{state}}"),
        ),
        graph(
            "Bytes moved a second",
            "To workers (clips, anchors), back (predictions), into storage (latents, checkpoints, "
            "segments).",
            "Bps",
            (rate(t.MOVED_BYTES, "kind"), "{{kind}}"),
            stacked=True,
        ),
        row("Output"),
        number(
            "Frames",
            "Of all videos that are done.",
            "short",
            (added(t.RENDERED_FRAMES), "frames"),
            width=6,
        ),
        number(
            "Size",
            "Of all videos that are done.",
            "bytes",
            (added(t.RENDERED_BYTES), "size"),
            width=6,
        ),
        number(
            "Free",
            "Share of the output's file system; object stores have no such figure.",
            "percentunit",
            (f"min({of(t.STORAGE_FREE)} / {of(t.STORAGE_SIZE)})", "free"),
            limits=_LITTLE_FREE,
            width=6,
        ),
        number(
            "Readable",
            "1 where the exporter can read every chosen output.",
            "short",
            (f"min({of(t.OUTPUT_READ)})", "readable"),
            limits=((None, "red"), (1, "green")),
            width=6,
        ),
    )
