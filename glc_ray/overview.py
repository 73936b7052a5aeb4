"""Where an output stands: facts from its manifest and from what its run says of itself.

No Ray, no torch, and of the manifest four narrow columns: it answers in a second during and after a
job, from any machine that sees the output.
"""

from __future__ import annotations

import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from glc_ray.display import fraction
from glc_ray.plain_text import plain
from glc_ray.protocols import UserError
from glc_ray.store import lease, manifest, run_status
from glc_ray.store.manifest_parts import parts
from glc_ray.store.output import Output
from glc_ray.store.run_status import RunStatus
from glc_ray.telemetry import VIDEO_STATES

_DIED_S = 60.0
"""Without a sign, on another machine; a run outlives a short outage of storage."""
_LISTEN_S = 5.0
"""A run gives a sign every two seconds."""
_CLOCKS_S = 3600.0
"""Clocks of two machines differ by less."""
_LATEST = 100
"""Videos that the rate is taken from while a run goes on: it follows what the workers do now."""
_REASONS = 1000
_COLUMNS = ("name", "status", "finished_at", "error")
_RENDERED = ("done", "failed")
_NUMBER = re.compile(
    r"0x[0-9a-f]+|\b(?=[a-f]*\d)[0-9a-f]{8,}\b|\d+(?:[.,:]\d+)*(?:e[+-]?\d+)?", re.IGNORECASE
)


@dataclass(frozen=True)
class Reason:
    """Why videos have failed, or rows of a catalog are invalid."""

    status: str
    """failed or invalid."""
    text: str
    """The error, with N for numbers that differ and NAME for the video's own."""
    count: int
    example: str
    """Name of the first such video; of an invalid row its line."""


@dataclass(frozen=True)
class Overview:
    """All that ``status`` shows."""

    output: str
    run: RunStatus | None
    """What the last run said last; None: no run has said anything."""
    run_state: str
    """none, running, done, stopped, failed, or died: it says running, and gave no sign since."""
    silent_s: float
    """Seconds since its last sign."""
    counts: dict[str, int]
    """Videos by state, all states. Of a run that has ended, those that it left count as queued."""
    earlier: int
    """Of the failed ones, those that failed before this run began: it may have them queued."""
    reasons: tuple[Reason, ...] = ()
    """The most frequent first."""
    videos_per_hour: float | None = None
    """Videos done in this run; of one that goes on, as fast as the latest hundred were."""
    eta_s: float | None = None
    """Seconds until nothing is left, at the rate at which videos end."""

    @property
    def exit_code(self) -> int:
        """0 all is done, 1 something failed or is invalid, 3 left by a run that ended, 4 running.

        Cancelled videos are as was asked for.
        """
        if self.run_state == "running":
            return 4
        if self.counts["queued"]:
            return 3
        return 1 if self.counts["failed"] or self.counts["invalid"] else 0


def overview(output: Output) -> Overview:
    """Read where ``output`` stands, in memory that does not grow with its videos' specifications.

    Raises:
        UserError: it is no output of glc-ray.
        StorageError: storage cannot be read.
    """
    run, state, silent_s = run_state(output)
    check_is_output(output, run)
    in_work = run.in_work if run is not None and state == "running" else ()
    names = pa.array([video.name for video in in_work], pa.string())
    found = _Found(run.started_at if run is not None else 0.0, names)
    for batch in manifest.iter_batches(output, _COLUMNS):
        found.add(batch)
    if found.counts["invalid"]:
        _add_invalid(output, found.reasons)
    counts = found.counts + Counter(video.state for video in in_work)
    if run is not None:
        counts["queued"] += max(0, run.num_videos - sum(run.ended.values()) - len(in_work))
    videos_per_hour, eta_s = _rates(found, run, state, counts["queued"])
    return Overview(
        output=output.uri(),
        run=run,
        run_state=state,
        silent_s=silent_s,
        counts={name: counts[name] for name in VIDEO_STATES},
        earlier=found.earlier,
        reasons=found.reasons.most_frequent(),
        videos_per_hour=videos_per_hour,
        eta_s=eta_s,
    )


def check_is_output(output: Output, run: RunStatus | None) -> None:
    """Refuse what has neither a manifest nor a run (UserError)."""
    if run is None and not parts(output):
        raise UserError(
            f"{output.uri()}: no output of glc-ray: it has neither {manifest.MANIFEST} nor a run "
            "that begins; give the --output of a render"
        )


def rows(output: Output) -> Iterator[tuple[str, str, str]]:
    """(name, status, error) of each row of the manifest, in the order of writing."""
    for batch in manifest.iter_batches(output, ("name", "status", "error")):
        for row in batch.to_pylist():
            yield plain(row["name"]), plain(row["status"]), plain(row["error"])


class Reasons:
    """Counts errors that are alike; of however many different ones, in bounded memory."""

    def __init__(self) -> None:
        self._alike: dict[tuple[str, str], _Alike] = {}
        self._others: Counter[str] = Counter()

    def add(self, status: str, error: str, name: str, example: str) -> None:
        """Count an error of the video ``name``; ``example`` is what the video or row is called."""
        text = plain(error) or "no reason is known"
        if name:
            text = text.replace(name, "NAME")
        numbers = [match[0] for match in _NUMBER.finditer(text)]
        # What no text has, so that a number is not taken for a letter.
        key = (status, _NUMBER.sub("\0", text))
        known = self._alike.get(key)
        if known is None and len(self._alike) >= _REASONS:
            self._others[status] += 1
        elif known is None:
            self._alike[key] = _Alike(key[1], numbers, example)
        else:
            known.count += 1
            both = zip(known.numbers, numbers, strict=True)
            known.numbers = [mine if mine == its else "N" for mine, its in both]

    def most_frequent(self) -> tuple[Reason, ...]:
        """The reasons, and at the end those that are too many."""
        found = [
            Reason(status, one.text(), one.count, one.example)
            for (status, _), one in self._alike.items()
        ]
        others = [Reason(status, "other reasons", n, "") for status, n in self._others.items()]
        return (*sorted(found, key=lambda reason: -reason.count), *others)


@dataclass
class _Alike:
    """Errors that differ in numbers alone."""

    pattern: str
    numbers: list[str]
    """In place of the pattern's gaps; N where they differ."""
    example: str
    count: int = 1

    def text(self) -> str:
        numbers = iter(self.numbers)
        return re.sub("\0", lambda _: next(numbers), self.pattern)


@dataclass
class _Found:
    """What the manifest tells, batch by batch."""

    since: float
    """The run began, in seconds since 1970."""
    in_work: pa.Array
    """Names: what an earlier run made of them does not count any more."""
    counts: Counter[str] = field(default_factory=Counter)
    earlier: int = 0
    reasons: Reasons = field(default_factory=Reasons)
    done_at: list[NDArray[np.float64]] = field(default_factory=lambda: [np.empty(0)])
    """Of this run, as ``ended_at``."""
    ended_at: list[NDArray[np.float64]] = field(default_factory=lambda: [np.empty(0)])
    """Done or failed."""

    def add(self, batch: pa.RecordBatch) -> None:
        if len(self.in_work):
            is_known = pc.is_in(batch.column("name"), self.in_work)
            batch = batch.filter(pc.invert(is_known))
        status, finished = batch.column("status"), batch.column("finished_at")
        for one in pc.value_counts(status).to_pylist():
            self.counts[one["values"]] += one["counts"]
        is_new = pc.greater_equal(finished, self.since)
        for wanted, times in (("done",), self.done_at), (_RENDERED, self.ended_at):
            is_wanted = pc.and_(is_new, pc.is_in(status, pa.array(wanted)))
            times.append(finished.filter(is_wanted).to_numpy(zero_copy_only=False))
        failed = batch.filter(pc.equal(status, "failed"))
        self.earlier += int(np.sum(failed.column("finished_at").to_numpy() < self.since))
        for row in failed.select(["name", "error"]).to_pylist():
            self.reasons.add("failed", row["error"], row["name"], plain(row["name"]))


def _add_invalid(output: Output, reasons: Reasons) -> None:
    for batch in manifest.iter_batches(output, ("status", "catalog_line", "error")):
        invalid = batch.filter(pc.equal(batch.column("status"), "invalid"))
        for row in invalid.to_pylist():
            reasons.add("invalid", row["error"], "", f"line {row['catalog_line']}")


def run_state(output: Output) -> tuple[RunStatus | None, str, float]:
    """What the run said last, in which state it is (of ``Overview``), seconds since its last sign.

    Raises:
        StorageError: storage cannot be read.
    """
    run = run_status.read(output)
    if run is None:
        return None, "none", 0.0
    silent_s = max(0.0, time.time() - run.updated_at)
    if run.state != "running" or silent_s <= _LISTEN_S:
        return run, run.state, silent_s
    if run.host == socket.gethostname():
        # One whose process is gone is known to be dead at once.
        is_alive = lease.holder(output) is not None
        return run, "running" if is_alive else "died", silent_s
    if silent_s <= _DIED_S:
        return run, "running", silent_s
    # The clock of its machine may be behind: listen whether it says something.
    until = time.monotonic() + (_LISTEN_S if silent_s < _CLOCKS_S else 0)
    while time.monotonic() < until:
        time.sleep(_LISTEN_S / 10)
        now = run_status.read(output)
        if now is not None and now != run:
            return now, now.state, 0.0
    return run, "died", silent_s


def _rates(
    found: _Found, run: RunStatus | None, state: str, queued: int
) -> tuple[float | None, float | None]:
    """Videos done an hour, and seconds until nothing is left."""
    if run is None:
        return None, None
    is_over = state != "running"
    done, ended = (
        _per_second(np.concatenate(times), run, is_over)
        for times in (found.done_at, found.ended_at)
    )
    left = queued + sum(1 - fraction(video) for video in run.in_work)
    return done * 3600 if done else None, left / ended if ended and not is_over else None


def _per_second(times: NDArray[np.float64], run: RunStatus, is_over: bool) -> float | None:
    """Videos a second, by the times at which they ended."""
    count, start = len(times), run.started_at
    if not is_over and count > _LATEST:
        start, count = float(np.sort(times)[-_LATEST - 1]), _LATEST
    # Until its last sign, so that a rate falls while nothing ends.
    seconds = run.updated_at - start
    return count / seconds if count and seconds > 0 else None
