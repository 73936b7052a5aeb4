"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary, hidden name beside ``path``; rename to ``path`` when the block succeeds.

    When it fails, the partial file is removed and what was at ``path`` stays. Two writers of one
    path do not meet: the last to finish wins.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Give a new, hidden folder beside ``path``; rename it to ``path`` when the block succeeds.

    A folder that was at ``path`` is moved aside just before, and removed just after.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    old = path.with_name(f".{path.name}.{uuid4().hex}.old")
    try:
        partial.mkdir()
        yield partial
        if path.exists():
            path.replace(old)
        partial.replace(path)
    finally:
        for folder in (partial, old):
            shutil.rmtree(folder, ignore_errors=True)
