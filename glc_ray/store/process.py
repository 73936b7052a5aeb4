"""Which process this is, so that others of the same machine can tell whether it lives."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def machine() -> str:
    """Where a process number means something: boot and process namespace; empty: unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{platform.node()} {boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def process_start(pid: int) -> int | None:
    """When a process began, in clock ticks since boot, for numbers are used again.

    Returns:
        0 for one that has ended, though nobody has asked for its exit code yet; None where it
        cannot be told.
    """
    try:
        # The name, in parentheses, may have any character.
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return 0 if state in "ZX" else int(numbers[18])


def is_gone(pid: int, start: int) -> bool:
    """Whether the process of this machine with that number and start has ended, for certain."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        # It is another user's; or no number of a process, and then it is gone.
        pass
    return process_start(pid) not in (None, start)
