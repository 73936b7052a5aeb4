"""What a process that was killed left on this machine's disk."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest

from glc_ray.store.scratch import remove_abandoned_scratch, scratch_folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def abandoned(days: float) -> Path:
    """A folder that nobody removes, with a file that was last written so long ago."""
    folder = Path(scratch_folder().name)
    folder.mkdir(exist_ok=True)
    (folder / "parts").mkdir()
    file = folder / "parts" / "segment.mp4"
    file.write_bytes(b"x")
    then = time.time() - 24 * 3600 * days
    for entry in (file, file.parent, folder):
        os.utime(entry, (then, then))
    return folder


def test_only_what_was_left_a_day_ago_is_removed(place: Path) -> None:
    old, recent, at_work = abandoned(1.1), abandoned(0.9), abandoned(3)
    (at_work / "parts" / "next.mp4").write_bytes(b"x")
    (somebodys := place / "glc-ray-renders").mkdir()
    os.utime(somebodys, (0, 0))
    with scratch_folder() as mine:
        remove_abandoned_scratch()
        left = {recent, at_work, somebodys, Path(mine)}
        assert set(place.iterdir()) == left
        assert not old.exists()
    assert not Path(mine).exists()
