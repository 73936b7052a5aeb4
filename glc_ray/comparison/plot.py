"""Differences from the first variant with their intervals, as SVG: a panel a score."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from glc_ray.comparison.statistics import Estimate
from glc_ray.comparison.table import Row, cells, difference_text

_LABEL, _PANEL, _GAP = 150, 230, 16
_ACROSS = 4
_TITLE, _LINE, _HEAD, _FOOT = 30, 22, 26, 34
_COLOURS = {"better": "#1a7f37", "worse": "#b35900", "": "#6b6b6b"}


def svg(rows: Sequence[Row], title: str) -> str:
    """A figure of the rows of one length: every variant but the first against the first.

    A dot is the mean of the differences, a bar its interval, the line 0. Green is better and orange
    worse than the first variant; grey tells nothing apart. Of one variant there is nothing to show.
    """
    variants, scores, by_place = cells(rows)
    scores = [name for name in scores if by_place[variants[0], name].score.better]
    tier = _HEAD + (len(variants) - 1) * _LINE + _FOOT
    width = _LABEL + _ACROSS * (_PANEL + _GAP)
    height = _TITLE + -(-len(scores) // _ACROSS) * tier
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        _text(8, 18, f"{title}: difference from {variants[0]}", weight="bold"),
    ]
    for number, name in enumerate(scores):
        row, column = divmod(number, _ACROSS)
        top = _TITLE + row * tier + _HEAD
        if not column:
            for line, variant in enumerate(variants[1:]):
                parts.append(_text(8, top + line * _LINE + _LINE // 2 + 4, variant))
        own = [by_place[variant, name] for variant in variants[1:]]
        better = by_place[variants[0], name].score.better
        parts += _panel(_LABEL + column * (_PANEL + _GAP), top, name, better, own)
    return "\n".join([*parts, "</svg>", ""])


def _panel(left: int, top: int, name: str, better: int, rows: Sequence[Row]) -> list[str]:
    arrow = "right is better" if better > 0 else "left is better"
    bottom = top + len(rows) * _LINE
    middle = left + _PANEL / 2
    widest = max((_reach(row.difference) for row in rows), default=0.0) or 1.0
    scale = (_PANEL / 2 - 6) / widest
    parts = [
        _text(left, top - 8, name, weight="bold"),
        f'<rect x="{left}" y="{top}" width="{_PANEL}" height="{bottom - top}" fill="#f6f6f6"/>',
        f'<line x1="{middle}" y1="{top}" x2="{middle}" y2="{bottom}" stroke="#b0b0b0"/>',
        _text(left, bottom + 16, f"±{widest:.2g}, {arrow}", colour="#6b6b6b"),
    ]
    for number, row in enumerate(rows):
        found = row.difference
        y = top + number * _LINE + _LINE / 2
        if found is None:
            parts.append(_text(int(middle) - 4, int(y) + 4, "–", colour="#6b6b6b"))
            continue
        colour = _COLOURS[row.verdict]
        parts.append(f"<g><title>{escape(f'{row.variant}: {difference_text(row)}')}</title>")
        if found.low is not None and found.high is not None:
            x1, x2 = middle + found.low * scale, middle + found.high * scale
            parts.append(
                f'<line x1="{x1:.1f}" y1="{y}" x2="{x2:.1f}" y2="{y}" stroke="{colour}" '
                'stroke-width="3" stroke-linecap="round" opacity="0.5"/>'
            )
        parts.append(
            f'<circle cx="{middle + found.mean * scale:.1f}" cy="{y}" r="4" fill="{colour}"/></g>'
        )
    return parts


def _reach(found: Estimate | None) -> float:
    if found is None:
        return 0.0
    return max(abs(end) for end in (found.mean, found.low, found.high) if end is not None)


def _text(x: int, y: int, text: str, *, weight: str = "normal", colour: str = "#1a1a1a") -> str:
    return f'<text x="{x}" y="{y}" fill="{colour}" font-weight="{weight}">{escape(text)}</text>'
