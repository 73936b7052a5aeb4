"""A comparison as Markdown, and as tables for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from urllib.parse import quote

from rich.console import Console
from rich.table import Table

from glc_ray.comparison.design import Design
from glc_ray.comparison.pictures import Pictures
from glc_ray.comparison.scores import GROUPS
from glc_ray.comparison.statistics import LEAST_DRAWS
from glc_ray.comparison.table import (
    MARKS,
    Row,
    cells,
    difference_text,
    mean_text,
    most_videos,
    num_videos,
    of_length,
    summary,
)

_WIDEST_NAME = 20
_COLUMN = 14


def markdown(
    design: Design,
    rows: Sequence[Row],
    plots: Sequence[str],
    pictures: Sequence[Pictures],
    *,
    up: str,
) -> str:
    """The page of a comparison.

    Args:
        design: what was compared.
        rows: what came out.
        plots: where the figures are, one a length, as the page links them.
        pictures: of cases.
        up: what leads from the page to the output: ``../``.
    """
    lines = ["# Comparison", "", *_head(design, num_videos(rows)), ""]
    for num_frames, plot in zip(design.lengths, plots, strict=True):
        of = of_length(rows, num_frames)
        if of:
            lines += [f"## {num_frames} frames", "", *length_lines(of, plot), ""]
    if rows:
        lines += ["## Scores", "", *score_lines(rows), ""]
    if pictures:
        lines += ["## Pictures", ""]
        for one in pictures:
            case = one.case
            lines += [
                f"### {_as_text(case.prompt)}: seed {case.seed}, {case.num_frames} frames",
                "",
                f"![A row a method, a column an instant]({quote(up + one.strips)})",
                "",
                f"[All of them beside each other, as a video]({quote(up + one.video)})",
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def length_lines(rows: Sequence[Row], plot: str) -> Iterator[str]:
    """What came out at one length, in Markdown without a heading.

    Args:
        rows: of the length.
        plot: where its figure is, as the page links it.
    """
    first, *others = dict.fromkeys(row.variant for row in rows)
    for group, title in GROUPS.items():
        own = [row for row in rows if row.score.group == group]
        if own:
            yield from (f"{title}:", "", *_by_variant(own, _mean_text_of(own)), "")
    yield interval_line(rows, first)
    if not others:
        return
    found = summary(rows)
    verdicts = [
        [variant, *(", ".join(told[key]) or "–" for key in ("better", "worse", ""))]
        for variant, told in found.items()
    ]
    head = [f"against {first}", "better", "worse", "cannot be told apart"]
    yield from ("", *_table(head, verdicts), "")
    yield f"![Differences from {first} with their intervals]({quote(plot)})"
    yield from ("", f"Differences from {first}, where a way is better:")
    for group in GROUPS:
        own = [row for row in rows if row.score.group == group and row.score.better]
        if own := [row for row in own if row.variant != first]:
            yield from ("", *_by_variant(own, difference_text))


def _mean_text_of(rows: Sequence[Row]) -> Callable[[Row], str]:
    most = most_videos(rows)
    return lambda row: mean_text(row, most.get(row.score.name, 0))


def _by_variant(rows: Sequence[Row], say: Callable[[Row], str]) -> Iterator[str]:
    """A table with a variant a line and a score a column."""
    variants, scores, by_place = cells(rows)
    body = [[variant, *(say(by_place[variant, name]) for name in scores)] for variant in variants]
    return _table(["method", *scores], body)


def interval_line(rows: Sequence[Row], first: str) -> str:
    """How marks and intervals are to be read."""
    over = {row.difference.over for row in rows if row.difference}
    most = most_videos(rows)
    means = "Means"
    if any(row.value and row.value.num_videos < most[row.score.name] for row in rows):
        means += (
            " (in brackets: of so few videos, so that they do not stand beside the others; "
            "differences are of what both have)"
        )
    if not over:
        return f"{means}."
    if over == {""}:
        return (
            f"{means}. There are no intervals: they need {LEAST_DRAWS} prompts, or {LEAST_DRAWS} "
            "seeds of every prompt."
        )
    drawn = (
        "prompts, so that it speaks of other prompts, too"
        if "prompts" in over
        else "seeds within each prompt, so that it speaks of these prompts alone"
    )
    return (
        f"{means}; {MARKS['better']} better and {MARKS['worse']} worse than {first}, where the 95% "
        "interval of the paired difference leaves out 0: a bootstrap over "
        f"{drawn}. Each interval stands for itself: of twenty that should hold 0, one does not."
    )


def score_lines(rows: Sequence[Row]) -> Iterator[str]:
    """What each score says."""
    scores = {row.score.name: row.score for row in rows}
    which = {1: "more", -1: "less", 0: "neither"}
    yield from _table(
        ["score", "says", "better is"],
        [[score.name, score.meaning, which[score.better]] for score in scores.values()],
    )


def show(rows: Sequence[Row], lengths: Sequence[int], console: Console) -> None:
    """Print the means of each length, as many scores beside each other as there is room for."""
    for num_frames in lengths:
        of = of_length(rows, num_frames)
        if not of:
            continue
        variants, scores, by_place = cells(of)
        say = _mean_text_of(of)
        console.print(f"\n{num_frames} frames", style="bold", highlight=False)
        room = max(1, (console.width - _WIDEST_NAME) // _COLUMN)
        for at in range(0, len(scores), room):
            table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
            table.add_column("method", overflow="fold")
            some = scores[at : at + room]
            for score in some:
                table.add_column(score, justify="right", overflow="fold")
            for variant in variants:
                table.add_row(variant, *(say(by_place[variant, score]) for score in some))
            console.print(table)
        console.print(interval_line(of, variants[0]), highlight=False)


def _head(design: Design, finished: int) -> Iterator[str]:
    prompts = list(dict.fromkeys(case.prompt for case in design.cases))
    seeds = list(dict.fromkeys(case.seed for case in design.cases))
    yield (
        f"{_count(len(design.variants), 'method')} on {_count(len(prompts), 'prompt')} with "
        f"{_count(len(seeds), 'seed')} each, against {design.variants[0].name}."
    )
    wanted = len(design.cases) * len(design.variants)
    if finished < wanted:
        yield ""
        yield f"{finished} of {wanted} videos are finished and scored."


def _count(number: int, name: str) -> str:
    return f"{number} {name}{'' if number == 1 else 's'}"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in body:
        yield f"| {' | '.join(text.replace('|', '/') for text in row)} |"


def _as_text(text: str) -> str:
    """A prompt is no Markdown."""
    text = " ".join(text.split())
    for letter in "\\`*_[]<>|":
        text = text.replace(letter, f"\\{letter}")
    return text
