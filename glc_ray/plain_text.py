"""Text for a terminal or a log, whoever wrote it: no commands to a terminal, no keys."""

from __future__ import annotations

import re
import time

# C0, DEL and C1, separators of lines and paragraphs, and what turns the direction of writing.
_CONTROL = r"\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069"
_CONTROLS = re.compile(f"[{_CONTROL}]+")
_BUT_LINES = re.compile(f"(?![\n\t])[{_CONTROL}]")
_OF_URI = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s'\"<>]*@", re.IGNORECASE)
_OPTIONS = re.compile(
    r"([?&;][\w.-]*(?:secret|token|password|credential|signature|sig|key)[\w.-]*=)[^\s&'\"<>]+",
    re.IGNORECASE,
)


def plain(text: str) -> str:
    """In one line, and without what would command a terminal: anybody may have written it."""
    return _CONTROLS.sub(" ", text).strip()


def printable(text: str) -> str:
    """As ``plain``, with its lines and tabs; what is taken out shows as U+FFFD."""
    return _BUT_LINES.sub("\ufffd", text)


def without_keys(text: str) -> str:
    """Without the keys that URIs in it carry: ``s3://KEY:SECRET@bucket`` as ``s3://***@bucket``."""
    return _OPTIONS.sub(r"\1***", _OF_URI.sub(r"\1***@", text))


def date(at: float) -> str:
    """``2026-01-31 12:00:00``, local; a question mark of seconds that no calendar has."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
    except (OverflowError, OSError, ValueError):
        return "?"
