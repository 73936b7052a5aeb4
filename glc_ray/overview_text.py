"""How an overview of an output reads: on a terminal, in a log, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from rich.cells import cell_len
from rich.text import Text

from glc_ray.display import Eta, clock, describe, in_words
from glc_ray.overview import Overview, Reason, rows
from glc_ray.plain_text import date, plain
from glc_ray.store.output import Output
from glc_ray.store.run_status import RunStatus, VideoProgress

_QUIET_S = 15.0
"""A run gives a sign every two seconds."""
_SHOWN_IN_WORK = 20
_SHOWN_REASONS = 10
_WIDTH = 160
"""Characters of an error that are shown; --json has all."""


def styled(text: list[str]) -> Text:
    """Lines with colours for a terminal that has them."""
    whole = Text("\n".join(text))
    whole.highlight_regex(r"\b\d+ (failed|invalid)\b|\bdied on .*", "red")
    whole.highlight_regex(r"\b\d+ done\b", "green")
    return whole


def facts(found: Overview) -> dict[str, Any]:
    """What --json prints."""
    share = None if found.run is None else busy_share(found.run)
    return asdict(found) | {"busy_share": share, "exit_code": found.exit_code}


def one_line(found: Overview) -> str:
    """What a log needs."""
    return "; ".join(text for text in (_videos_line(found), _rate_line(found)) if text)


def lines(found: Overview, eta: Eta | None = None) -> list[str]:
    """What a person sees."""
    table = {
        "run": _run_line(found),
        "videos": _videos_line(found),
        "workers": "" if found.run is None else _workers_line(found.run),
        "rate": _rate_line(found),
    }
    shown = [found.output, *(f"{key:<8} {text}" for key, text in table.items() if text)]
    in_work = found.run.in_work if found.run is not None else ()
    if in_work:
        shown += ["", "in work" if found.run_state == "running" else "in work at its last sign"]
        standing = [describe(one, eta.of(one) if eta else None) for one in in_work]
        standing = [
            f"{text}{_preview(found, one)}" for text, one in zip(standing, in_work, strict=True)
        ]
        names = [plain(one.name) for one in in_work[:_SHOWN_IN_WORK]]
        shown += _columns(zip(names, standing, strict=False))
        if len(in_work) > _SHOWN_IN_WORK:
            shown.append(f"  and {len(in_work) - _SHOWN_IN_WORK} more, which --all shows")
    for status in ("failed", "invalid"):
        shown += _reason_lines(status, [one for one in found.reasons if one.status == status])
    return shown


def _run_line(found: Overview) -> str:
    run = found.run
    if run is None:
        return "none that tells of itself"
    who = f"on {plain(run.host)}, process {run.pid}"
    lasted = clock(max(0.0, run.updated_at - run.started_at))
    left = found.counts["queued"]
    go_on = "; run the same command to go on" if left else ""
    match found.run_state:
        case "running":
            sign = "last sign {} ago" if found.silent_s < _QUIET_S else "no sign for {}"
            silent = sign.format(_span(found.silent_s))
            return f"running {who}, since {date(run.started_at)}, {silent}"
        case "died":
            return f"died {who}: no sign for {_span(found.silent_s)}{go_on}"
        case "done":
            word = "cancelled" if left else "done"
        case "failed":
            word = "ended with an error"
        case _:
            word = "stopped"
    return f"{word} at {date(run.updated_at)} after {lasted}, {who}{go_on}"


def _videos_line(found: Overview) -> str:
    total = sum(found.counts.values())
    text = f"{total}: {in_words(found.counts)}" if total else "none yet"
    if found.earlier:
        text += f" ({found.earlier} of the failed before this run, which may have them queued)"
    return text


def _workers_line(run: RunStatus) -> str:
    workers = run.workers
    share = busy_share(run)
    if share is None:
        return ""
    text = f"{workers.ready} of {workers.workers} ready, {workers.busy} busy now"
    text += f", {share:.0%} of the run's time"
    if workers.waiting:
        text += f", {workers.waiting} tasks waiting"
    if not workers.restarts:
        return text
    return f"{text}, {workers.restarts} restart{'s' if workers.restarts > 1 else ''}"


def busy_share(run: RunStatus) -> float | None:
    """Share of the run's time that its workers spent in forwards; None without workers."""
    seconds = run.workers.workers * (run.updated_at - run.started_at)
    return min(1.0, run.workers.busy_s / seconds) if seconds > 0 else None


def _rate_line(found: Overview) -> str:
    parts = []
    if found.videos_per_hour:
        rate = found.videos_per_hour
        parts.append(f"{rate:.0f} videos an hour" if rate >= 100 else f"{rate:.3g} videos an hour")
    if found.eta_s is not None:
        parts.append(f"about {clock(found.eta_s)} left")
    return ", ".join(parts)


def _reason_lines(status: str, reasons: list[Reason]) -> list[str]:
    if not reasons:
        return []
    shown = ["", f"{status}, by reason"]
    for reason in reasons[:_SHOWN_REASONS]:
        text = reason.text if len(reason.text) <= _WIDTH else f"{reason.text[: _WIDTH - 1]}…"
        one = "e.g. " if reason.count > 1 else ""
        example = f" ({one}{reason.example})" if reason.example else ""
        shown.append(f"{reason.count:>7}  {text}{example}")
    rest = reasons[_SHOWN_REASONS:]
    if rest:
        count = sum(reason.count for reason in rest)
        shown.append(f"{count:>7}  for {len(rest)} other reasons, which --json shows")
    return shown


def video_lines(place: Output, found: Overview) -> Iterator[str]:
    """A line a video, however many they are."""
    in_work = _in_work(found)
    for video in in_work:
        yield f"{plain(video.name)}: {describe(video, None)}{_preview(found, video)}"
    for name, state, error in _ended(place, in_work):
        yield ": ".join(text for text in (name, state, error) if text)
    if found.counts["queued"]:
        yield f"and {found.counts['queued']} queued"


def video_facts(place: Output, found: Overview) -> Iterator[dict[str, Any]]:
    """What --json prints of each video that is not queued."""
    in_work = _in_work(found)
    for video in in_work:
        yield asdict(video)
    for name, state, error in _ended(place, in_work):
        yield {"name": name, "state": state, "error": error}


def _in_work(found: Overview) -> tuple[VideoProgress, ...]:
    return found.run.in_work if found.run is not None and found.run_state == "running" else ()


def _ended(place: Output, in_work: tuple[VideoProgress, ...]) -> Iterator[tuple[str, str, str]]:
    known = {plain(video.name) for video in in_work}
    return (row for row in rows(place) if row[0] not in known)


def _preview(found: Overview, video: VideoProgress) -> str:
    return f"; preview {found.output.rstrip('/')}/{plain(video.preview)}" if video.preview else ""


def _columns(pairs: Iterable[tuple[str, str]]) -> list[str]:
    rows = list(pairs)
    width = max(cell_len(left) for left, _ in rows)
    return [f"  {left}{' ' * (width - cell_len(left))}  {right}" for left, right in rows]


def _span(seconds: float) -> str:
    """``2 s``, ``3 min``, ``5 h``, ``2 d``."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= unit:
            return f"{seconds // unit:.0f} {name}"
    return f"{seconds:.0f} s"
