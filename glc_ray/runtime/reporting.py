"""Keeps the report page up to date while a run goes on, without holding it up."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from glc_ray.report_page.report import Report
from glc_ray.stopping import StoppedError
from glc_ray.store.output import Output
from glc_ray.store.record import VideoRecord
from glc_ray.store.run_status import RunStatus

_LOG = logging.getLogger(__name__)
_PAUSE_S = 30.0
_SHARE = 0.05
"""Of the time, the report takes at most this share."""
_WITHIN_S = 10.0
"""For what came to its end since the last time; the rest waits for the next."""
_LAST_S = 0.5
"""The same where a signal ends the run: seconds later it is killed."""


class Reporting(AbstractContextManager["Reporting"]):
    """A thread that writes the report now and then, and at the end of the block.

    A report that cannot be written is a warning, and the run goes on: ``glc-ray report`` makes it
    from the manifest.

    Args:
        output: of the run.
        status: where it stands.
    """

    def __init__(self, output: Output, status: Callable[[], RunStatus]) -> None:
        self._output = output
        self._status = status
        self._report = Report(output)
        self._ending = threading.Event()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._keep, name="report", daemon=True)

    def __enter__(self) -> Reporting:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        self._is_stopped = kind is not None and issubclass(kind, StoppedError)
        self._ending.set()
        self._thread.join(_LAST_S if self._is_stopped else None)

    def add(self, record: VideoRecord) -> None:
        """A video came to its end, or a row is outdated."""
        self._report.add(record)

    def _keep(self) -> None:
        try:
            self._report.sync()
            while True:
                start = time.monotonic()
                is_last = self._ending.is_set()
                within_s = _LAST_S if self._is_stopped else None if is_last else _WITHIN_S
                self._report.write(self._status(), within_s=within_s)
                if is_last:
                    return
                took_s = time.monotonic() - start
                self._ending.wait(max(_PAUSE_S, took_s / _SHARE))
        except Exception as error:
            _LOG.warning(
                "the report is behind: %s; `glc-ray report %s` makes it from the manifest",
                error,
                self._output.uri(),
            )
