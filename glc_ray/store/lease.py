"""The lease: one run at a time has an output.

OUTPUT/.work/lease/
    1f0c7a52c09d3f44.json   of a run: host, process, since when, and when it last gave a sign

Each run writes a file of its own, and again every few seconds; so nobody ever overwrites another's.
A run has the output when no other one that lives has a file there. One of this machine whose
process has ended is dead at once, any other after half a minute without a sign, by the storage's
clock. On local storage a lock keeps two that come at once apart. In an object store both may write;
after a moment both look, and the one that came later gives way. A run that slept so long that it
was taken for dead finds its file gone, or itself named in the file of the run that replaced it.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace

from glc_ray.foreign import read_facts
from glc_ray.plain_text import date, plain
from glc_ray.protocols import UserError
from glc_ray.store.output import Output
from glc_ray.store.paths import LEASE
from glc_ray.store.process import is_gone, machine, process_start
from glc_ray.store.storage import StorageError

_LOG = logging.getLogger(__name__)


class LeaseLostError(RuntimeError):
    """Another run has the output now; the message says which and what to do."""


@dataclass(frozen=True)
class LeaseTimes:
    """How long what takes, in seconds."""

    renew_s: float = 5.0
    """From one sign to the next."""
    stale_s: float = 30.0
    """Without a sign, after which a run is taken for dead."""
    settle_s: float = 1.0
    """From writing to looking again, in an object store."""
    poll_s: float = 2.0
    """From one look to the next while waiting."""


@dataclass(frozen=True)
class Holder:
    """A run that has an output, or is about to."""

    token: str
    """Its own, random."""
    host: str
    """Name of the machine."""
    pid: int
    machine: str = ""
    """Where the process number means something; empty: unknown."""
    process_start: int = 0
    """When the process began, as its machine counts."""
    started: float = 0.0
    """When the run began, in seconds since 1970."""
    signed: float = 0.0
    """Its last sign, in seconds since 1970 by its own clock."""
    holds: bool = False
    """It has looked, and nobody else was there."""
    replaces: tuple[str, ...] = ()
    """Tokens of runs that it found dead."""

    @property
    def rank(self) -> tuple[bool, float, str]:
        """Of several the lowest has the output."""
        return not self.holds, self.started, self.token

    @property
    def is_dead(self) -> bool:
        """Its process was one of this machine and is gone."""
        is_here = bool(self.machine) and self.machine == machine()
        return is_here and is_gone(self.pid, self.process_start)


@dataclass
class Lease:
    """A run's right to an output; made by ``run_lease``."""

    output: Output
    own: Holder
    times: LeaseTimes
    _loss: str = ""
    _renewing: threading.Lock = field(default_factory=threading.Lock)
    _renewed_s: float = field(default_factory=lambda: _clock())

    @property
    def is_lost(self) -> bool:
        """Another run has the output; without looking at storage."""
        return bool(self._loss)

    def check(self) -> None:
        """Look whether this run still has the output; at storage only after a long sleep.

        Raises:
            LeaseLostError: it has not.
        """
        if not self._loss and _clock() - self._renewed_s > self.times.stale_s / 2:
            self.renew()
        if self._loss:
            raise LeaseLostError(self._loss)

    def renew(self) -> None:
        """Give a sign, unless another run has the output."""
        # Without the lock: who is stopped in here would keep others from taking over.
        with self._renewing:
            if self._loss:
                return
            try:
                self._look()
                if not self._loss:
                    self.own = replace(self.own, signed=time.time())
                    _put(self.output, self.own)
                    self._renewed_s = _clock()
            except StorageError as error:
                # Nobody else can see more. When storage is back, it tells who has the output.
                _LOG.warning("no sign of this run can be stored: %s", error)

    def _look(self) -> None:
        others = {holder.token: holder for holder, _ in _holders(self.output)}
        is_there = others.pop(self.own.token, None) is not None
        winners = [
            other
            for other in others.values()
            if self.own.token in other.replaces
            or (other.holds and other.rank < self.own.rank and other.token not in self.own.replaces)
        ]
        if is_there and not winners:
            return
        by = f"; {_who(min(winners, key=lambda other: other.rank))} has it now" if winners else ""
        self._loss = (
            f"{self.output.uri()}: this run gave no sign for so long that another one took the "
            f"output over{by}. What was rendered is kept; to go on here, stop that run and give "
            "the same command again"
        )
        self.output.delete(_path(self.own.token))


@contextmanager
def run_lease(
    output: Output,
    *,
    wait_s: float | None = None,
    on_wait: Callable[[str], None] | None = None,
    times: LeaseTimes | None = None,
) -> Iterator[Lease]:
    """Have an output for oneself while the block runs.

    Args:
        output: of the run.
        wait_s: how long to wait while another run has it; None does not wait.
        on_wait: called once, with the text that says who has it, if it must be waited.
        times: for tests.

    Raises:
        UserError: another run has it (still).
        StorageError: storage cannot be read or written.
    """
    times = times or LeaseTimes()
    lease = _wait_for(output, wait_s or 0.0, on_wait or (lambda _: None), times)
    ended = threading.Event()
    signs = threading.Thread(target=_give_signs, args=(lease, ended), name="lease", daemon=True)
    signs.start()
    try:
        yield lease
    finally:
        ended.set()
        # Storage that does not answer must not keep a run from ending.
        signs.join(times.renew_s)
        with suppress(StorageError):
            output.delete(_path(lease.own.token))


def holder(output: Output, times: LeaseTimes | None = None) -> Holder | None:
    """The run that has an output, as far as its last sign tells; None where there is none.

    Raises:
        StorageError: storage cannot be read.
    """
    oldest_s = time.time() - (times or LeaseTimes()).stale_s
    live = [h for h, _ in _holders(output) if not h.is_dead and h.signed >= oldest_s]
    return min(live, key=lambda found: found.rank, default=None)


def _wait_for(
    output: Output, wait_s: float, on_wait: Callable[[str], None], times: LeaseTimes
) -> Lease:
    deadline_s, has_told = _clock() + wait_s, False
    while True:
        found = _try_to_take(output, times)
        if isinstance(found, Lease):
            return found
        text = f"{output.uri()}: another run has this output: {_who(found)}"
        if wait_s and not has_told:
            on_wait(text)
            has_told = True
        if _clock() >= deadline_s:
            raise UserError(
                f"{text}; wait until it ends, stop it, or give another --output (a run that was "
                f"killed elsewhere counts as dead {times.stale_s:.0f} s after its last sign)"
            )
        time.sleep(min(times.poll_s, max(0.0, deadline_s - _clock())))


def _try_to_take(output: Output, times: LeaseTimes) -> Lease | Holder:
    """The lease, or who has it."""
    own = Holder(
        token=uuid.uuid4().hex[:16],
        host=platform.node(),
        pid=os.getpid(),
        machine=machine(),
        process_start=process_start(os.getpid()) or 0,
        started=time.time(),
        signed=time.time(),
    )
    with output.locked() if output.is_local else nullcontext():
        try:
            _put(output, own)
            other, dead = _look_around(output, own, times)
            if other is None and not output.is_local:
                # Another may have begun to write before this one was there to be seen.
                time.sleep(times.settle_s)
                other, dead = _look_around(output, own, times)
            if other is not None:
                output.delete(_path(own.token))
                return other
            own = replace(own, holds=True, replaces=dead, signed=time.time())
            _put(output, own)
            for token in dead:
                output.delete(_path(token))
        except BaseException:
            with suppress(StorageError):
                output.delete(_path(own.token))
            raise
    return Lease(output, own, times)


def _look_around(
    output: Output, own: Holder, times: LeaseTimes
) -> tuple[Holder | None, tuple[str, ...]]:
    """Who comes before ``own``, if anybody does, and the tokens of the dead."""
    found = _holders(output)
    # By the storage's clock, which wrote both.
    now_s = max((age_s for holder, age_s in found if holder.token == own.token), default=0.0)
    oldest_s = now_s - times.stale_s
    dead = {other.token for other, at_s in found if other.is_dead or at_s < oldest_s}
    before = [o for o, _ in found if o.token not in dead and o.rank < own.rank]
    return min(before, key=lambda other: other.rank, default=None), tuple(sorted(dead))


def _give_signs(lease: Lease, ended: threading.Event) -> None:
    while not ended.wait(lease.times.renew_s) and not lease.is_lost:
        lease.renew()


def _holders(output: Output) -> list[tuple[Holder, float]]:
    """All that wrote a file, and when, by the storage's clock."""
    found = []
    for stored in output.list(LEASE):
        holder = read_facts(Holder, output.read_bytes(stored.path))
        if holder is not None:
            found.append((holder, stored.modified_s))
    return found


def _put(output: Output, own: Holder) -> None:
    output.put_bytes(json.dumps(asdict(own)).encode(), _path(own.token))


def _path(token: str) -> str:
    return f"{LEASE}/{token}.json"


def _who(found: Holder) -> str:
    since = date(found.started)
    sign = f"its last sign {max(0.0, time.time() - found.signed):.0f} s ago"
    return f"process {found.pid} on {plain(found.host)}, since {since}, which gave {sign}"


def _clock() -> float:
    """Seconds, those among them in which the machine slept."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
