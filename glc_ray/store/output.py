"""The output folder, local or remote, through pyarrow.fs.

OUTPUT/videos/NAME.mp4            nothing but .mp4 in this folder
OUTPUT/contact_sheets/NAME.png
OUTPUT/manifest.parquet
"""

from __future__ import annotations

import shutil
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
        self.location = (
            location if "://" in location else str(Path(location).expanduser().resolve())
        )
        try:
            found = fs.FileSystem.from_uri(self.location)
        except (pa.ArrowInvalid, ValueError, OSError) as error:
            raise UserError(
                f"--output {location}: not a path or URI that can be used ({error}); give a "
                "folder, or a URI that begins with s3://, gs:// or file://"
            ) from None
        self._fs, self._root = cast("tuple[fs.FileSystem, str]", found)

    def uri(self, path: str) -> str:
        """Where a person finds ``path``."""
        return f"{self.location.rstrip('/')}/{path}"

    def prepare(self) -> None:
        """Make the folders and prove that they can be written.

        Raises:
            UserError: they cannot.
        """
        try:
            for folder in ("", "videos", "contact_sheets"):
                self._fs.create_dir(self._full(folder), recursive=True)
            probe = self._full(".write-test")
            with self._fs.open_output_stream(probe) as stream:
                stream.write(b"")
            self._fs.delete_file(probe)
        except (OSError, pa.ArrowException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--output {self.location}: cannot be written ({reason}); give a folder that you "
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

    def _write(self, path: str, source: BinaryIO) -> None:
        target = self._full(path)
        is_local = isinstance(self._fs, fs.LocalFileSystem)
        # Beside the folders, so that nothing but finished videos is ever seen in videos/.
        partial = self._full(f".{path.replace('/', '-')}.partial") if is_local else target
        with self._fs.open_output_stream(partial) as stream:
            shutil.copyfileobj(source, stream, 1 << 20)
        if is_local:
            self._fs.move(partial, target)

    def _full(self, path: str) -> str:
        return f"{self._root.rstrip('/')}/{path}".rstrip("/")
