"""What a comparison comes to: a row for each length, variant and score."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from glc_ray.comparison.scores import COST, Score, in_order
from glc_ray.comparison.statistics import Estimate, estimate, paired

MARKS = {"better": "▲", "worse": "▼"}


@dataclass(frozen=True)
class Row:
    """A variant by one score."""

    num_frames: int
    variant: str
    score: Score
    value: Estimate | None
    """Mean of its videos; None: the score says nothing of them."""
    difference: Estimate | None
    """From the first variant, over the prompts and seeds that both have; None of the first."""

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` than the first variant where the interval of the difference
        leaves out 0, else nothing."""
        if self.difference is None or not self.score.better:
            return ""
        up, down = ("better", "worse") if self.score.better > 0 else ("worse", "better")
        return up if self.difference.is_above else down if self.difference.is_below else ""


def rows(values: pa.Table, lengths: Sequence[int], variants: Sequence[str]) -> list[Row]:
    """By length, score and variant, in order; scores that no video has are left out.

    Args:
        values: as ``values.long_form`` gives them.
        lengths: in frames.
        variants: the first is what the others are compared with.
    """
    found: dict[tuple[int, str, str], dict[tuple[str, int], float]] = {}
    for row in values.to_pylist():
        key = (row["num_frames"], row["score"], row["method"])
        found.setdefault(key, {})[row["prompt"], row["seed"]] = row["value"]
    made = []
    for num_frames in lengths:
        for score in in_order({name for length, name, _ in found if length == num_frames}):
            of = [found.get((num_frames, score.name, variant), {}) for variant in variants]
            for index, (variant, own) in enumerate(zip(variants, of, strict=True)):
                value = estimate(own) if own else None
                difference = paired(own, of[0]) if index else None
                made.append(Row(num_frames, variant, score, value, difference))
    return made


def to_arrow(rows: Sequence[Row]) -> pa.Table:
    """One row each, for programs; what is not there is null."""
    schema = pa.schema(
        [
            ("num_frames", pa.int64()),
            ("method", pa.string()),
            ("score", pa.string()),
            ("videos", pa.int64()),
            ("mean", pa.float64()),
            ("low", pa.float64()),
            ("high", pa.float64()),
            ("difference", pa.float64()),
            ("difference_low", pa.float64()),
            ("difference_high", pa.float64()),
            ("pairs", pa.int64()),
            ("over", pa.string()),
            ("verdict", pa.string()),
        ]
    )
    return pa.Table.from_pylist([_facts(row) for row in rows], schema=schema)


def to_csv(table: pa.Table) -> str:
    """The same for spreadsheets."""
    text = io.StringIO()
    writer = csv.DictWriter(text, table.schema.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table.to_pylist())
    return text.getvalue()


def _facts(row: Row) -> dict[str, object]:
    value, difference = row.value, row.difference
    facts: dict[str, object] = {
        "num_frames": row.num_frames,
        "method": row.variant,
        "score": row.score.name,
        "verdict": row.verdict,
        "videos": value.num_videos if value else 0,
        "pairs": difference.num_videos if difference else 0,
        "over": value.over if value else "",
    }
    if value:
        facts |= {"mean": value.mean, "low": value.low, "high": value.high}
    if difference:
        facts |= {
            "difference": difference.mean,
            "difference_low": difference.low,
            "difference_high": difference.high,
        }
    return facts


def of_length(rows: Sequence[Row], num_frames: int) -> list[Row]:
    """Those of one length."""
    return [row for row in rows if row.num_frames == num_frames]


def cells(rows: Sequence[Row]) -> tuple[list[str], list[str], dict[tuple[str, str], Row]]:
    """Rows of one length as a table: variants down, scores across."""
    by_place = {(row.variant, row.score.name): row for row in rows}
    variants = list(dict.fromkeys(row.variant for row in rows))
    scores = list(dict.fromkeys(row.score.name for row in rows))
    return variants, scores, by_place


def num_videos(rows: Sequence[Row]) -> int:
    """Videos that have any score, of all variants."""
    of: dict[tuple[int, str], int] = {}
    for row in rows:
        key = (row.num_frames, row.variant)
        of[key] = max(of.get(key, 0), row.value.num_videos if row.value else 0)
    return sum(of.values())


def mean_text(row: Row, most: int = 0) -> str:
    """``0.912 ▼``, ``0.912 (8) ▼`` of 8 videos where others have ``most``; a dash of what is not
    there."""
    if row.value is None:
        return "–"
    few = f"({row.value.num_videos})" if row.value.num_videos < most else ""
    return " ".join(
        filter(None, (_number(row.value.mean, row.score), few, MARKS.get(row.verdict, "")))
    )


def most_videos(rows: Sequence[Row]) -> dict[str, int]:
    """Of each score, how many videos the variant has that has most."""
    most: dict[str, int] = {}
    for row in rows:
        if row.value:
            most[row.score.name] = max(most.get(row.score.name, 0), row.value.num_videos)
    return most


def difference_text(row: Row) -> str:
    """``−0.012 [−0.020, −0.004]``, without the interval where there is none."""
    if row.difference is None:
        return "–"
    found = row.difference
    text = _number(found.mean, row.score, sign="+")
    if found.low is None or found.high is None:
        return text
    ends = (_number(end, row.score, sign="+") for end in (found.low, found.high))
    return f"{text} [{', '.join(ends)}]"


def summary(rows: Sequence[Row]) -> dict[str, dict[str, list[str]]]:
    """Of each variant but the first, the scores by verdict: better, worse, and neither (``""``).

    Cost is left out: it is told beside.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if row.difference is None or not row.score.better or row.score.name in COST:
            continue
        verdicts = found.setdefault(row.variant, {"better": [], "worse": [], "": []})
        verdicts[row.verdict].append(row.score.name)
    return found


def _number(value: float, score: Score, sign: str = "") -> str:
    text = f"{value:{sign}.{score.digits}f}"
    # A difference that rounds to nothing has no sign.
    is_nothing = not text.strip("+-0.")
    return text.lstrip("+-") if is_nothing else text.replace("-", "−")
