"""The output folder, local or remote, through pyarrow.fs.

OUTPUT/videos/NAME.mp4            nothing but .mp4 in this folder
OUTPUT/contact_sheets/NAME.png
OUTPUT/manifest.parquet
"""

from __future__ import annotations

import fcntl
import io
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
from pyarrow import fs

from glc_ray.protocols import UserError

MANIFEST = "manifest.parquet"


def video_path(name: str) -> str:
    """Path of a video below the output."""
    return f"videos/{name}.mp4"


def contact_sheet_path(name: str) -> str:
    """Path of a contact sheet below the output."""
    return f"contact_sheets/{name}.png"


class Output:
    """An output location: a local path, or a URI such as ``s3://bucket/prefix``.

    Files appear whole or not at all: written under a temporary name and renamed where the
    storage is local, in a single put where it is an object store.
    """

    def __init__(self, location: str) -> None:
        is_uri = "://" in location
        if not is_uri and "/working_dir_files/" in f"{Path(location).expanduser().resolve()}/":
            raise UserError(
                f"--output {location}: lies in the copy of the working directory that Ray makes "
                "for a job and removes with it; give an absolute path or a URI that all nodes see"
            )
        self.location = location if is_uri else str(Path(location).expanduser().resolve())
        try:
            found = fs.FileSystem.from_uri(self.location)
        except (pa.ArrowInvalid, ValueError, OSError) as error:
            raise UserError(
                f"--output {location}: not a path or URI that can be used ({error}); give a "
                "folder, or a URI that begins with s3://, gs:// or file://"
            ) from None
        self._fs, self._root = cast("tuple[fs.FileSystem, str]", found)
        self._is_local = isinstance(self._fs, fs.LocalFileSystem)

    def uri(self, path: str = "") -> str:
        """Where a person finds ``path``; without the options and keys that a URI may carry."""
        scheme = "" if self._is_local else self.location.partition("://")[0] + "://"
        return scheme + self._full(path)

    def prepare(self) -> None:
        """Make the folders and prove that they can be written.

        Raises:
            UserError: they cannot.
        """
        try:
            for folder in ("", "videos", "contact_sheets"):
                self._fs.create_dir(self._full(folder), recursive=True)
            self._write(".write-test", io.BytesIO(b"x"))
            self._fs.delete_file(self._full(".write-test"))
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--output {self.uri()}: cannot be written ({reason}); give a folder that you "
                "may write, or mend its permissions"
            ) from None

    def put(self, local: Path, path: str) -> int:
        """Copy a local file to ``path``; returns its size in bytes."""
        with local.open("rb") as source:
            self._write(path, source)
        return local.stat().st_size

    def read(self, path: str) -> pa.NativeFile | None:
        """A seekable stream of ``path``, or None where there is no such file."""
        if self._fs.get_file_info(self._full(path)).type != fs.FileType.File:
            return None
        return self._fs.open_input_file(self._full(path))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this machine from rewriting the same file; local storage only."""
        if not self._is_local:
            yield
            return
        with Path(self._full(".lock")).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, path: str, source: BinaryIO) -> None:
        if not self._is_local:
            with self._fs.open_output_stream(self._full(path)) as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
            return
        # Beside the folders, so that nothing but finished videos is ever seen in videos/.
        partial = Path(self._full(f".{uuid.uuid4().hex}.partial"))
        try:
            with partial.open("wb") as stream:
                shutil.copyfileobj(source, stream, 1 << 20)
            partial.replace(self._full(path))
        finally:
            partial.unlink(missing_ok=True)

    def _full(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}".rstrip("/")
