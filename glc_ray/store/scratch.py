"""Folders of this machine for files on their way to the output."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from glc_ray.store.storage import ABANDONED_S

_PREFIX = ".glc-ray-scratch-"


def scratch_folder() -> tempfile.TemporaryDirectory[str]:
    """A folder that is removed when the block ends; of a process that is killed it stays, until
    ``remove_abandoned_scratch``."""
    return tempfile.TemporaryDirectory(prefix=_PREFIX)


def remove_abandoned_scratch() -> None:
    """Remove one's own scratch folders into which nothing was written for a day.

    Not sooner: whether the process of one is gone cannot be told from within another container.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):
            entries = (folder, *folder.rglob("*"))
            newest = max(entry.lstat().st_mtime for entry in entries)
            if time.time() - newest > ABANDONED_S and folder.lstat().st_uid == os.getuid():
                shutil.rmtree(folder)
