"""A disk that is full, a limit that is reached, a folder that may not be written."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from glc_ray.store.latents import save_latents
from glc_ray.store.output import Output
from glc_ray.store.storage import StorageError


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("no file system can be mounted here")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def _names(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )


def test_full_disk(small_disk: Path, tmp_path: Path) -> None:
    output = Output(str(small_disk))
    output.prepare()
    output.put_bytes(b"older", "videos/a.mp4")
    source = tmp_path / "video.mp4"
    source.write_bytes(b"x" * (1 << 20))
    reason = "cannot store: the disk is full: make room, or give another --output"
    with pytest.raises(StorageError) as error:
        output.put(source, "videos/a.mp4")
    assert str(error.value) == f"{small_disk}/videos/a.mp4: {reason}"
    with pytest.raises(StorageError) as error:
        save_latents(output, "latents/a.safetensors", torch.zeros(1, 64, 16, 32, 32), {})
    assert str(error.value) == f"{small_disk}/latents/a.safetensors: {reason}"
    frames = tmp_path / "frames"
    frames.mkdir()
    source.rename(frames / "frame_000000.png")
    with pytest.raises(StorageError, match="the disk is full"):
        output.put_folder(frames, "videos/a")
    assert _names(small_disk) == ["videos/a.mp4"]
    assert output.read_bytes("videos/a.mp4") == b"older"


def test_read_only_disk(small_disk: Path) -> None:
    output = Output(str(small_disk))
    output.prepare()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StorageError) as error:
        output.put_bytes(b"x", "videos/a.mp4")
    assert str(error.value) == (
        f"{small_disk}/videos/a.mp4: cannot store: the file system is read-only: give another "
        "--output"
    )


_WITH_A_LIMIT = """
import resource, signal, sys
from pathlib import Path
from glc_ray.store.output import Output
from glc_ray.store.storage import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
output = Output(sys.argv[1])
output.prepare()
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    output.put(Path(sys.argv[2]), "videos/a.mp4")
except StorageError as error:
    print(error)
"""


def test_file_size_limit(tmp_path: Path) -> None:
    source = tmp_path / "video.mp4"
    source.write_bytes(b"x" * 100_000)
    command = [sys.executable, "-c", _WITH_A_LIMIT, str(tmp_path / "out"), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == (
        f"{tmp_path}/out/videos/a.mp4: cannot store: the file is larger than is allowed here: "
        "raise the limit (ulimit -f)\n"
    )
    assert _names(tmp_path / "out") == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_that_may_not_be_written(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    output.prepare()
    (tmp_path / "out").chmod(0o500)
    with pytest.raises(StorageError, match="cannot store: permission denied: give a folder that"):
        output.put_bytes(b"x", "a")


def test_path_that_is_taken_by_a_folder(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    output.put_bytes(b"x", "videos/a.mp4/b")
    with pytest.raises(StorageError, match=r"/videos/a\.mp4: cannot store: .*[Dd]irectory"):
        output.put_bytes(b"x", "videos/a.mp4")
    assert _names(tmp_path) == ["videos/a.mp4/b"]
