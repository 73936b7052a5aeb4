"""Log lines: short ones on a terminal, dated ones with their video in an actor, or JSON in both."""

from __future__ import annotations

import json
import logging
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from glc_ray.plain_text import printable, without_keys

_FACTS = ("video", "step", "attempt", "worker", "state")
"""What a line may be about; given by ``about``, or to the line itself as ``extra``."""

_about: dict[str, Any] = {}
"""Of this process: an actor does one thing at a time."""


def about(**facts: Any) -> None:
    """What the lines of this process are about from now on; None is about nothing any more."""
    unknown = facts.keys() - set(_FACTS)
    assert not unknown, f"lines are about {_FACTS}, not {unknown}"
    _about.update(facts)


def log_to_stderr(log_format: str = "text", *, is_actor: bool = False) -> None:
    """Have this process log to its standard error, which is a file of Ray's in an actor.

    Args:
        log_format: text or json, a JSON object a line.
        is_actor: what happens is logged, too, dated; else only warnings.
    """
    handler = _Stderr()
    handler.setFormatter(_Json() if log_format == "json" else _Dated() if is_actor else _Short())
    # Whoever embeds glc-ray may have handlers of its own; an actor is glc-ray's.
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=is_actor)
    if is_actor:
        logging.getLogger("glc_ray").setLevel(logging.INFO)


def log_file() -> str:
    """Where this process logs to, HOST:PATH; of an actor a file of Ray's."""
    with suppress(OSError):
        return f"{socket.gethostname()}:{Path('/proc/self/fd/2').readlink()}"
    return socket.gethostname()


def as_json(level: str, message: str, **facts: Any) -> str:
    """One line; a time of now, in UTC."""
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    known = {name: value for name, value in facts.items() if value is not None}
    line = {"time": now, "level": level, **known, "message": message}
    return json.dumps(
        {key: without_keys(one) if isinstance(one, str) else one for key, one in line.items()}
    )


def _facts_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """What a line is about, its own facts first."""
    found = {name: record.__dict__.get(name, _about.get(name)) for name in _FACTS}
    return {name: value for name, value in found.items() if value is not None}


class _Stderr(logging.StreamHandler):
    """Writes to what sys.stderr is at the time: a live display puts itself there, above which it
    prints what comes."""

    def emit(self, record: logging.LogRecord) -> None:
        self.setStream(sys.stderr)
        super().emit(record)


def _safe(text: str) -> str:
    """A line, with what belongs to it below and indented, so that none of it looks like another."""
    return without_keys(printable(text)).replace("\n", "\n  ")


class _Short(logging.Formatter):
    """``warning: text``, for a person."""

    def format(self, record: logging.LogRecord) -> str:
        return _safe(f"{record.levelname.lower()}: {super().format(record)}")


class _Dated(logging.Formatter):
    """``2026-01-31 12:00:00,000 info video=red-ball step=3 attempt=1: text``."""

    def format(self, record: logging.LogRecord) -> str:
        facts = "".join(f" {name}={value}" for name, value in _facts_of(record).items())
        head = f"{self.formatTime(record)} {record.levelname.lower()}{facts}"
        return _safe(f"{head}: {super().format(record)}")


class _Json(logging.Formatter):
    """As ``as_json``, with the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        traceback = self.formatException(record.exc_info) if record.exc_info else None
        facts = {"logger": record.name, **_facts_of(record), "traceback": traceback}
        return as_json(record.levelname.lower(), record.getMessage(), **facts)
