"""The output folder, local or remote, through pyarrow.fs."""

from __future__ import annotations

import fcntl
import io
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import pyarrow as pa
from pyarrow import fs

from glc_ray.protocols import UserError
from glc_ray.store.scratch import scratch_folder
from glc_ray.store.storage import (
    PARTIAL,
    OutsideError,
    StorageError,
    StoredFile,
    connect,
    explain,
    mapped,
    read_object,
    remove,
    remove_abandoned,
    resolved,
    upload,
)

_COPY_BYTES = 1 << 20
_TRIES = 20


class Output:
    """An output location: a local path, or a URI such as ``s3://bucket/prefix``.

    Files appear whole or not at all: written under a temporary name and renamed where the
    storage is local, in one upload that is seen when it is complete where it is an object store.
    No folders are made in an object store, which needs none.
    """

    def __init__(self, location: str) -> None:
        self.location = resolved(location)
        if "://" not in location and "/working_dir_files/" in f"{self.location}/":
            raise UserError(
                f"--output {location}: lies in the copy of the working directory that Ray makes "
                "for a job and removes with it; give an absolute path or a URI that all nodes see"
            )
        self._fs, self._root, self._impatient_fs = connect(self.location)
        self._is_local = isinstance(self._fs, fs.LocalFileSystem)

    @property
    def is_local(self) -> bool:
        """Whether files are on a file system, where ``locked`` keeps writers apart."""
        return self._is_local

    def uri(self, path: str = "") -> str:
        """Where a person finds ``path``; without the options and keys that a URI may carry."""
        scheme = "" if self._is_local else self.location.partition("://")[0] + "://"
        return scheme + self._full(path)

    def location_of(self, path: str) -> str:
        """What opens ``path`` as ``location`` opens the output, with its options and keys: for
        programs, not for people."""
        if self._is_local:
            return self._full(path)
        place, mark, options = self.location.partition("?")
        return f"{place.rstrip('/')}/{path}{mark}{options}"

    def prepare(self) -> None:
        """Prove that files can be written, within seconds; make the folders of local storage.

        Raises:
            UserError: they cannot.
        """
        try:
            if self._is_local:
                for folder in ("", "videos", "contact_sheets"):
                    Path(self._full(folder)).mkdir(parents=True, exist_ok=True)
                # A name of its own: processes that start together would remove each other's.
                probe = f".{uuid.uuid4().hex}.write-test{PARTIAL}"
                self._write(io.BytesIO(b"x"), probe)
                Path(self._full(probe)).unlink()
                remove_abandoned(Path(self._full("")))
            else:
                upload(self._impatient_fs, pa.py_buffer(b"x"), self._full(".write-test"))
                remove(self._impatient_fs, self._full(".write-test"))
        except (OSError, pa.ArrowException) as error:
            what = f"--output {self.uri()}: cannot be written"
            if not self._is_local:
                raise UserError(f"{what}: {self._why(error)}") from None
            raise UserError(
                f"{what} ({str(error).splitlines()[0]}); give a folder that you may write, "
                "or mend its permissions"
            ) from None

    def put(self, local: Path, path: str) -> int:
        """Copy a local file to ``path``; returns its size in bytes.

        Raises:
            StorageError: it cannot be stored; nothing of it is left, an older file is as it was.
        """
        with self._explained("store", path):
            if self._is_local:
                with local.open("rb") as source:
                    self._write(source, path)
            else:
                upload(self._fs, mapped(local), self._full(path))
            return local.stat().st_size

    def put_bytes(self, data: bytes, path: str) -> None:
        """Store ``data`` as ``path``; as ``put``."""
        with self._explained("store", path):
            if self._is_local:
                self._write(io.BytesIO(data), path)
            else:
                upload(self._fs, pa.py_buffer(data), self._full(path))

    def put_folder(self, local: Path, path: str) -> int:
        """Copy the files of a local folder to the folder ``path``; returns their size in bytes.

        Local: appears whole, in place of an older one. Object store: file by file, then files of
        an older one are removed.
        """
        files = sorted(file for file in local.rglob("*") if file.is_file())
        if not self._is_local:
            names = [f"{path}/{file.relative_to(local).as_posix()}" for file in files]
            size = sum(self.put(*pair) for pair in zip(files, names, strict=True))
            for old in {stored.path for stored in self.list(path)} - set(names):
                self.delete(old)
            return size
        with self._explained("store", path), self._partial() as partial:
            shutil.copytree(local, partial)
            with self._partial() as replaced:
                with suppress(FileNotFoundError):
                    Path(self._full(path)).rename(replaced)
                self._rename(partial, path)
        return sum(file.stat().st_size for file in files)

    @contextmanager
    def writing(self, path: str) -> Iterator[Path]:
        """A local file to write, stored as ``path`` when the block ends without an error.

        Raises:
            StorageError: it cannot be written or stored; nothing of it is left.
        """
        if self._is_local:
            with self._explained("store", path), self._partial() as partial:
                yield partial
                self._rename(partial, path)
            return
        with scratch_folder() as folder:
            local = Path(folder) / PurePosixPath(path).name
            # What the block itself cannot write is a matter of this machine's disk.
            try:
                yield local
            except OSError as error:
                raise StorageError(
                    f"{local}: cannot write: {explain(error, self.location)}"
                ) from error
            self.put(local, path)

    def read(self, path: str) -> pa.NativeFile | None:
        """A seekable stream of ``path``, or None where there is no such file.

        Local files are mapped to memory, remote ones are read range by range.
        """
        with self._explained("read", path):
            info = self._fs.get_file_info(self._full(path))
            if info.type != fs.FileType.File:
                return None
            if self._is_local and info.size:
                return pa.memory_map(self._full(path))
            return self._fs.open_input_file(self._full(path))

    def read_bytes(self, path: str) -> bytes | None:
        """The content of a small file, or None where there is no such file.

        All of it is of one version, though others may replace the file meanwhile.
        """
        with self._explained("read", path), suppress(FileNotFoundError, NotADirectoryError):
            if self._is_local:
                return Path(self._full(path)).read_bytes()
            return read_object(self._fs, self._full(path))
        return None

    def size(self, path: str) -> int | None:
        """Size of ``path`` in bytes, or None where there is no such file."""
        stored = self.stored(path)
        return stored.size if stored else None

    def stored(self, path: str) -> StoredFile | None:
        """What storage tells of ``path``, or None where there is no such file."""
        with self._explained("read", path):
            info = self._fs.get_file_info(self._full(path))
        if info.type != fs.FileType.File:
            return None
        return StoredFile(path, info.size, (info.mtime_ns or 0) / 1e9)

    def local_copy(self, path: str, folder: Path) -> Path:
        """``path`` as a local file: itself where storage is local, else downloaded to ``folder``.

        Raises:
            StorageError: there is no such file, or it cannot be read.
        """
        if self._is_local:
            return Path(self._full(path))
        copy = folder / PurePosixPath(path).name
        with (
            self._explained("read", path),
            copy.open("wb") as target,
            self._fs.open_input_stream(self._full(path)) as source,
        ):
            shutil.copyfileobj(source, target, _COPY_BYTES)
        return copy

    def local_copies(self, path: str, folder: Path) -> Path:
        """As ``local_copy``, of a file or of a folder of files."""
        pictures = [] if self._is_local else self.list(path)
        if not pictures:
            return self.local_copy(path, folder)
        copies = folder / PurePosixPath(path).name
        copies.mkdir()
        for stored in pictures:
            self.local_copy(stored.path, copies)
        return copies

    def list(self, folder: str, *, recursive: bool = True) -> list[StoredFile]:
        """The finished files below ``folder``, by path; none where there is no such folder.

        Raises:
            StorageError: it cannot be read, or a file's name is no UTF-8.
        """
        selector = fs.FileSelector(self._full(folder), allow_not_found=True, recursive=recursive)
        start = len(self._full("")) + 1
        found = []
        with self._explained("list", folder), suppress(NotADirectoryError):
            found = [
                StoredFile(info.path[start:], info.size, (info.mtime_ns or 0) / 1e9)
                for info in self._fs.get_file_info(selector)
                if info.type == fs.FileType.File
                and not info.path.endswith(PARTIAL)
                # A key of an object may be anything.
                and ".." not in info.path[start:].split("/")
            ]
        return sorted(found, key=lambda stored: stored.path)

    def delete(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it; one that is not there is no error."""
        with self._explained("remove", path):
            if not self._is_local:
                for stored in self.list(path):
                    remove(self._fs, self._full(stored.path))
                remove(self._fs, self._full(path))
                return
            # Out of the way at once: another process may be writing into the folder.
            with suppress(FileNotFoundError), self._partial() as removed:
                Path(self._full(path)).rename(removed)

    def move(self, source: str, target: str) -> None:
        """Rename a file, in place of an older one; in an object store a copy, then a removal.

        Raises:
            StorageError: there is no ``source``, or it cannot be moved.
        """
        with self._explained("move", source):
            if self._is_local:
                self._rename(Path(self._full(source)), target)
                return
            self._fs.copy_file(self._full(source), self._full(target))
            remove(self._fs, self._full(source))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this machine from rewriting the same file; local storage only."""
        if not self._is_local:
            yield
            return
        # A link that somebody put there must not lead to another file.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        lock = os.open(self._full(".lock"), flags, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _write(self, source: BinaryIO, path: str) -> None:
        with self._partial() as partial:
            with partial.open("wb") as stream:
                shutil.copyfileobj(source, stream, _COPY_BYTES)
            self._rename(partial, path)

    @contextmanager
    def _partial(self) -> Iterator[Path]:
        # Beside the folders, so that nothing but finished videos is ever seen in videos/.
        partial = Path(self._full(f".{uuid.uuid4().hex}{PARTIAL}"))
        partial.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
        finally:
            if partial.is_dir():
                shutil.rmtree(partial, ignore_errors=True)
            else:
                partial.unlink(missing_ok=True)

    def _rename(self, source: Path, path: str) -> None:
        target = Path(self._full(path))
        for tries_left in reversed(range(_TRIES)):
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
                return
            except (FileNotFoundError, FileExistsError):
                # Another process may just have removed the folder.
                if not tries_left or not source.exists():
                    raise

    @contextmanager
    def _explained(self, action: str, path: str) -> Iterator[None]:
        try:
            yield
        except UnicodeDecodeError as error:
            raise StorageError(
                f"{self.uri(path)}: cannot {action}: a name in it is no UTF-8 ({error.object!r}); "
                "rename that file"
            ) from error
        except (OSError, pa.ArrowException) as error:
            raise StorageError(f"{self.uri(path)}: cannot {action}: {self._why(error)}") from error

    def _why(self, error: Exception) -> str:
        return explain(error, self.location)

    def _full(self, path: str) -> str:
        # Names of files come from manifests and ledgers, which others may have written.
        if path.startswith("/") or ".." in path.split("/") or "\0" in path:
            raise OutsideError(f"{path!r} lies outside of the output {self.uri()}")
        return f"{self._root.rstrip('/')}/{path}".rstrip("/")
