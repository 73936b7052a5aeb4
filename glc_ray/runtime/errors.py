"""What went wrong in another process, in one line."""

from __future__ import annotations


class DenoiseError(RuntimeError):
    """The windows of a step cannot be computed; the message names step and windows."""


class CancelledError(RuntimeError):
    """Somebody asked for the end of a video."""


def reason(error: BaseException) -> str:
    """The line of a Ray error that says what happened."""
    cause = getattr(error, "cause", None)
    text = str(error) if cause is None else f"{type(cause).__name__}: {cause}"
    if cause is not None and "Traceback" not in text and "::" not in text:
        return text
    # Ray puts a remote traceback into the text, and what happened into its last line.
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
