"""How a run hears that it is to end: by a signal, which is looked for while it waits."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

_Item = TypeVar("_Item")

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""`ray job stop` and most schedulers send the first, a keyboard the second."""
_LOOK_S = 0.1


class StoppedError(RuntimeError):
    """A signal asked for the end of the run; the message names it."""


class Stop:
    """Whether a signal has come, or what else ends a run. It is only remembered, for an exception
    in the middle of Ray's own code would leave that in pieces."""

    def __init__(self) -> None:
        self._why: Exception | None = None
        self._threads: list[threading.Thread] = []

    def note(self, number: int, frame: Any = None) -> None:
        """A signal handler."""
        self.end(StoppedError(signal.Signals(number).name))

    def end(self, why: Exception) -> None:
        """Have ``why`` raised where a signal is looked for; what came first counts."""
        if self._why is None:
            self._why = why

    def check(self) -> None:
        """Raise StoppedError if a signal has come, or what else ends the run."""
        if self._why is not None:
            raise self._why

    def each(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The items, each as soon as it is there; looks for a signal while it waits.

        What is there when one comes is handed out before the end: nobody would ask for it again.

        Raises:
            StoppedError: one has come.
            Exception: what ``end`` was given.
        """
        found: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

        def fetch() -> None:
            try:
                for item in items:
                    found.put((True, item))
                found.put((False, None))
            except BaseException as error:
                found.put((False, error))

        thread = threading.Thread(target=fetch, name="fetch", daemon=True)
        self._threads.append(thread)
        thread.start()
        rest: int | None = None
        while True:
            if self._why is not None:
                rest = found.qsize() if rest is None else rest - 1
                if not rest:
                    self.check()
            try:
                is_item, item = found.get(timeout=_LOOK_S)
            except queue.Empty:
                continue
            if is_item:
                yield item
                continue
            self.check()
            if item is None:
                return
            raise item

    def settle(self, timeout_s: float) -> None:
        """Let those that still wait for items come to their end."""
        for thread in self._threads:
            thread.join(timeout_s)


@contextmanager
def stop_by_signals() -> Iterator[Stop]:
    """Have SIGTERM and SIGINT remembered while the block runs, and not obeyed at once.

    To be entered when Ray has been connected to, which sets handlers of its own. Elsewhere than in
    the main thread, where no handler can be set, no signal comes.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {one: signal.signal(one, stop.note) for one in _SIGNALS}
    try:
        yield stop
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
