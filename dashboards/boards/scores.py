"""What the videos are worth."""

from __future__ import annotations

from grafana_foundation_sdk.builders import dashboard

from dashboards.panels import added, bars, board, graph, now, number, of, ratio
from glc_ray import telemetry as t
from glc_ray.comparison.scores import SCORES, Group


def _names(better: int, group: Group = "score") -> str:
    return "|".join(one.name for one in SCORES if (one.better, one.group) == (better, group))


_MORE, _LESS = f"{_names(1)}|vbench[.].*", _names(-1)
_TRUTH, _TRUTH_LESS = _names(1, "truth"), _names(-1, "truth")
_MOTION = f"{_names(0)}|{_names(0, 'truth')}"


def scores() -> dashboard.Dashboard:
    """What the videos are worth."""
    scored = f"sum(max by (output) ({of(t.SCORED_VIDEOS)}))"
    return board(
        "glc-scores",
        "glc-ray: scores",
        "What `glc-ray evaluate OUTPUT` found, as of its last run: nothing is shown before it. "
        "`glc-ray report` shows single videos and their curves.",
        number("Videos with scores", "At least one.", "short", (scored, "videos"), width=6),
        number(
            "Share of the videos that are done",
            "What is missing was rendered later: run `glc-ray evaluate` again.",
            "percentunit",
            (ratio(scored, added(t.VIDEOS, state="done")), "share"),
            width=6,
        ),
        number(
            "Hard cuts",
            "That a network sees in a video, mean. A long video of one prompt has none.",
            "short",
            (now(t.SCORE, score="hard_cuts_transnet", of="mean"), "{{output}}"),
            limits=((0.5, "orange"), (2, "red")),
            width=6,
        ),
        number(
            "Seams",
            "Change at borders that windows have in every step, by change elsewhere: 1 is none.",
            "short",
            (now(t.SCORE, score="seam", of="mean"), "{{output}}"),
            limits=((1.2, "orange"), (1.5, "red")),
            width=6,
        ),
        bars(
            "More is better",
            "Means over videos, output by output. Only vbench.* are VBench's own scores.",
            "none",
            (now(t.SCORE, "score", score=_MORE, of="mean"), "{{score}} {{output}}"),
        ),
        bars(
            "Less is better",
            "Means over videos, output by output.",
            "none",
            (now(t.SCORE, "score", score=_LESS, of="mean"), "{{score}} {{output}}"),
        ),
        graph(
            "The worst twentieth",
            "What one video of twenty is below, of scores of which more is better.",
            "none",
            (now(t.SCORE, "score", score=_MORE, of="low"), "{{score}} {{output}}"),
        ),
        graph(
            "The worst twentieth, less is better",
            "What one video of twenty is above.",
            "none",
            (now(t.SCORE, "score", score=_LESS, of="high"), "{{score}} {{output}}"),
        ),
        bars(
            "Truth",
            "Of prompts of the embedded model's world, where the right picture is known.",
            "none",
            (now(t.SCORE, "score", score=_TRUTH, of="mean"), "{{score}} {{output}}"),
            most=1,
        ),
        bars(
            "Truth, less is better",
            "Largest jump of the object in pixels, and largest change of the landscape.",
            "none",
            (now(t.SCORE, "score", score=_TRUTH_LESS, of="mean"), "{{score}} {{output}}"),
        ),
        bars(
            "How much moves",
            "Neither more nor less is better. What stands still looks good in most other scores: "
            "toyworld.speed is 1 where objects are as fast as that world's.",
            "none",
            (now(t.SCORE, "score", score=_MOTION, of="mean"), "{{score}} {{output}}"),
        ),
    )
