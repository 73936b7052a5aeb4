"""A page for each length: what the ablation came to, beside what the paper says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glc_ray import __version__
from glc_ray.comparison.page import length_lines, score_lines
from glc_ray.comparison.table import Row, num_videos, summary

BASELINES = ("direct", "gen_l_video", "freenoise", "freelong")
PAPER_LOSSES = {
    "glc-glcd": 14.56,
    "glc-global_path": 2.01,
    "glc-local_path": 2.92,
    "glc-noise_reinit": 0.15,
    "glc-vmcr": 2.03,
}
"""Of imaging quality (VBench, of 100) without a part; section 4.4."""


@dataclass(frozen=True)
class Length:
    """What came out at one length, and where its files are beside the report."""

    num_frames: int
    num_prompts: int
    num_seeds: int
    rows: Sequence[Row]
    plot: str
    strips: str
    table: str


def write_report(folder: Path, length: Length, options: Mapping[str, Any]) -> Path:
    """Write the page of a length that is finished, as a whole, and say where.

    Lengths have pages of their own, so that each may be run on another day or machine.
    """
    lines = [f"# {length.num_frames} frames", "", *_head(length, options), "", *_of_length(length)]
    lines += ["", "## Scores", "", *score_lines(length.rows)]
    page = folder / f"{length.num_frames}.md"
    partial = folder / f".{page.name}.partial"
    partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return partial.replace(page)


def _head(length: Length, options: Mapping[str, Any]) -> Iterator[str]:
    set_keys = ", ".join(f"`{key}={value}`" for key, value in options.items())
    seeds = "one seed" if length.num_seeds == 1 else f"{length.num_seeds} seeds"
    yield (
        f"{length.num_prompts} held-out prompts with {seeds} each, {_videos(length)} videos "
        f"([table]({length.table})), made by `pipelines/ablation/run.py` with glc-ray {__version__}"
        f"{f' and {set_keys}' if set_keys else ''}."
    )


def _videos(length: Length) -> str:
    variants = {row.variant for row in length.rows}
    wanted = length.num_prompts * length.num_seeds * len(variants)
    finished = num_videos(length.rows)
    return str(finished) if finished == wanted else f"{finished} of {wanted}"


def _of_length(length: Length) -> Iterator[str]:
    yield from length_lines(length.rows, length.plot)
    if told := list(orderings(length.rows)):
        yield ""
        yield "## The paper's orderings"
        yield ""
        yield from told
    if length.strips:
        yield ""
        yield f"![A row a method, a column an instant]({length.strips})"


def orderings(rows: Sequence[Row]) -> Iterator[str]:
    """Which of the paper's claims hold: GLC first of all methods; worse without each part."""
    first = rows[0].variant
    leaders = {name: leader for name in _judged(rows) if (leader := _leader(rows, name, first))}
    if leaders:
        ahead = [f"{leader} ({name})" for name, leader in leaders.items() if leader != first]
        yield (
            f"Of {first} and the baselines, {first} has the best mean in "
            f"{len(leaders) - len(ahead)} of the {len(leaders)} scores in which they differ; ahead "
            f"of it are {', '.join(ahead) or 'none'}."
        )
    found = summary(rows)
    parts = [name for name in found if name.startswith(f"{first}-")]
    if not parts:
        return
    if leaders:
        yield ""
    yield "| without | better | worse | cannot be told apart | loss of imaging quality (paper) |"
    yield "|---|---|---|---|---|"
    for name in parts:
        told = found[name]
        loss = f"{PAPER_LOSSES[name]:.2f}" if name in PAPER_LOSSES else "–"
        counts = " | ".join(str(len(told[key])) for key in ("better", "worse", ""))
        yield f"| {name.removeprefix(f'{first}-')} | {counts} | {loss} |"


def _judged(rows: Sequence[Row]) -> list[str]:
    """Scores that have a better way, without cost."""
    return list(
        dict.fromkeys(
            row.score.name for row in rows if row.score.better and row.score.group != "cost"
        )
    )


def _leader(rows: Sequence[Row], score: str, first: str) -> str:
    """The method with the best mean, the first where it is one of several; empty: all are equal.

    By the differences from the first, which are of the videos that both have: means may be of
    others.
    """
    gains = {first: 0.0} | {
        row.variant: row.score.better * row.difference.mean
        for row in rows
        if row.score.name == score and row.difference and row.variant in BASELINES
    }
    if len(set(gains.values())) < 2:
        return ""
    return max(gains, key=lambda variant: (gains[variant], variant == first))
