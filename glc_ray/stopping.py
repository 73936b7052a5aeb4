"""How a run hears that it is to end: by a signal, which becomes an exception."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""`ray job stop` and most schedulers send the first, a keyboard the second."""


class StoppedError(RuntimeError):
    """A signal asked for the end of the run; the message names it."""


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """A signal raises StoppedError in the main thread, once: what follows must not be cut short.

    Elsewhere than in the main thread it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise StoppedError(signal.Signals(number).name)

    before = {one: signal.signal(one, stop) for one in SIGNALS}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
