"""What happens to one video."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.panels import (
    board,
    graph,
    now,
    number,
    of,
    rate,
)
from glc_ray import telemetry as t


def video() -> dashboard.Dashboard:
    """What happens to one of them."""
    info = of(t.VIDEO_INFO, video="$video")

    def its(values: str) -> str:
        """Values by slot, while the chosen video has the slot."""
        return f"({values}) * on (output, slot) group_left (video) {info}"

    steps = rate(t.STEPS, "output", "slot")
    parts = rate(t.STEP_SECONDS, "output", "slot", "part")
    seconds_a_step = f"{parts} / on (output, slot) group_left () ({steps} > 0)"
    before, after = (now(t.MOTION_LOSS, "slot", "when", when=one) for one in ("before", "after"))
    return board(
        "glc-video",
        "glc-ray: one video",
        "The denoising of one video, while it lasts. Its metrics are those of its slot, a small "
        "number that another video has later.",
        number(
            "Done",
            "Share of the video; denoising is taken for nine tenths.",
            "percentunit",
            (of(t.VIDEO_PROGRESS, video="$video"), "{{video}}"),
            width=12,
        ),
        number(
            "Steps a minute",
            "As fast as now.",
            "short",
            (its(f"60 * {steps}"), "steps"),
            width=12,
        ),
        graph(
            "Seconds a step",
            "Waiting for predictions, fusion with the noise scheduler's step, refinement (VMCR); "
            "checkpoints are written beside them.",
            "s",
            (its(seconds_a_step), "{{part}}"),
            stacked=True,
        ),
        graph(
            "Share of the global path",
            "γ of the step's fused prediction (Eq. 9).",
            "percentunit",
            (its(now(t.GAMMA, "slot")), "γ"),
        ),
        graph(
            "Motion loss a pair of motions",
            "Of the predicted clean latents, a sample of the frames, before and after refinement "
            "(Eq. 12-15). After is below before; both rise while detail appears.",
            "short",
            (its(now(t.MOTION_LOSS, "slot", "when")), "{{when}} refinement"),
        ),
        graph(
            "Motion loss that refinement takes off",
            "Share of the loss before it. None: refinement does nothing; below 0, its step is too "
            "long: lower glc.vmcr.weight.",
            "percentunit",
            (its(f"1 - ({after} / ignoring (when) {before})"), "taken off"),
            least=None,
        ),
        has_video=True,
    )
