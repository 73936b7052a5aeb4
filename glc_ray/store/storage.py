"""Storage behind a path or URI: how long it is waited for, and what its errors mean to a person."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast

import pyarrow as pa
from pyarrow import fs

from glc_ray.plain_text import without_keys
from glc_ray.protocols import UserError

# A wrong address or key must be found out in seconds, before anything is rendered (3 attempts: 3 s
# at a port where nothing listens); a result of hours must outlive a short outage (8: a minute).
_ATTEMPTS_TO_PREPARE = 3
_ATTEMPTS_TO_STORE = 8
_GCS_SECONDS_TO_PREPARE = 10
_GCS_SECONDS_TO_STORE = 120
_CONNECT_S = 5.0
_REPLY_S = 60.0

PARTIAL = ".partial"
"""How the names of temporary files end."""
ABANDONED_S = 24 * 3600.0
"""Seconds after which what a process left is nobody's any more."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".json": "application/json",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".mov": "video/quicktime",
    ".mkv": "video/x-matroska",
}

_CREDENTIALS = (
    "the credentials were refused: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the "
    "profile that AWS_PROFILE names) here and on all nodes, and that they may write there"
)
_ADDRESS = "nothing answers: check region, endpoint_override and scheme in the URI, and the network"
_BUCKET = "there is no such bucket: make it, or name another"
_S3_REASONS = {
    "NO_SUCH_BUCKET": _BUCKET,
    "Bucket '": _BUCKET,
    "NETWORK_CONNECTION": _ADDRESS,
    "ACCESS_DENIED": _CREDENTIALS,
    "SIGNATURE_DOES_NOT_MATCH": _CREDENTIALS,
    "INVALID_ACCESS_KEY_ID": _CREDENTIALS,
    "INVALID_CLIENT_TOKEN_ID": _CREDENTIALS,
    "INVALID_SIGNATURE": _CREDENTIALS,
    "MISSING_AUTHENTICATION_TOKEN": _CREDENTIALS,
    "EXPIRED_TOKEN": _CREDENTIALS,
}
_LOCAL_REASONS = {
    errno.ENOSPC: "the disk is full: make room, or give another --output",
    errno.EDQUOT: "the disk quota is used up: make room, or give another --output",
    errno.EFBIG: "the file is larger than is allowed here: raise the limit (ulimit -f)",
    errno.EACCES: "permission denied: give a folder that you may write, or mend its permissions",
    errno.EPERM: "permission denied: give a folder that you may write, or mend its permissions",
    errno.EROFS: "the file system is read-only: give another --output",
}


class StorageError(RuntimeError):
    """A file could not be stored or read: the path, the reason and what to do about it."""


class OutsideError(StorageError):
    """A path leads out of the output."""


@dataclass(frozen=True)
class StoredFile:
    """A file as a listing tells of it."""

    path: str
    """Below the output."""
    size: int
    """In bytes."""
    modified_s: float
    """Seconds since 1970, by the storage's clock."""


def expanded(path: str) -> Path:
    """With the home folder that ``~`` stands for; ``~NAME`` of nobody stays as it is, as in a
    shell, and is no file that there is."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 Path's raises RuntimeError.


def resolved(location: str, option: str = "--output") -> str:
    """A location as every process understands it: a URI, or an absolute path.

    Args:
        location: a path or a URI.
        option: that gave it.

    Raises:
        UserError: it begins with ``~NAME``, and there is no user of that name, or its links lead
            in a circle.
    """
    if "://" in location:
        return location
    try:
        return str(Path(location).expanduser().resolve())
    except RuntimeError as error:
        reason = str(error).rstrip(".")
        raise UserError(
            f"{option} {location}: not a path that can be used ({reason}); give an absolute path"
        ) from None


def connect(location: str, option: str = "--output") -> tuple[fs.FileSystem, str, fs.FileSystem]:
    """File system of a location, the root below it, and one that gives up in seconds.

    Args:
        location: a path or a URI.
        option: that gave it.

    Raises:
        UserError: ``location`` is nothing that can be used.
    """
    try:
        found, root = cast("tuple[fs.FileSystem, str]", fs.FileSystem.from_uri(location))
    except (pa.ArrowException, ValueError, OSError) as error:
        raise UserError(
            f"{option} {without_secrets(location)}: not a path or URI that can be used "
            f"({_first_line(error, location)}); give a path, or a URI that begins with s3://, "
            "gs:// or file://"
        ) from None
    if isinstance(found, fs.LocalFileSystem):
        return found, root, found
    if found.type_name == "s3":
        return _s3(found, _ATTEMPTS_TO_STORE), root, _s3(found, _ATTEMPTS_TO_PREPARE)
    if found.type_name == "gcs" and "retry_limit_seconds=" not in location:
        patient, impatient = (
            fs.FileSystem.from_uri(_with_option(location, f"retry_limit_seconds={seconds}"))[0]
            for seconds in (_GCS_SECONDS_TO_STORE, _GCS_SECONDS_TO_PREPARE)
        )
        return patient, root, impatient
    return found, root, found


def explain(error: Exception, location: str) -> str:
    """Why storage refused, and what to do: one line, without keys."""
    reason = _first_line(error, location)
    number = getattr(error, "errno", None)
    # Arrow's errors of local files carry the number in their text alone.
    found = re.search(r"\[errno (\d+)\]", reason, re.IGNORECASE)
    number = number if number is not None else int(found[1]) if found else None
    if number in _LOCAL_REASONS:
        return _LOCAL_REASONS[number]
    advice = next((text for word, text in _S3_REASONS.items() if word in reason), None)
    return f"{advice} ({reason})" if advice else reason


def without_secrets(location: str) -> str:
    """A location without the keys and options that a URI may carry."""
    scheme, separator, rest = location.partition("://")
    if not separator:
        return location
    # A secret may have any letter, a question mark, too.
    place, _, options = rest.partition("?")
    if "@" in options and "@" not in place:
        return f"{scheme}{separator}***"
    return scheme + separator + place.rpartition("@")[2]


def upload(storage: fs.FileSystem, content: pa.Buffer, path: str) -> None:
    """Store ``content`` in an object store; it is seen when it is complete, or never.

    A server hands objects to browsers as the type that they were stored with: pages are to be
    shown and videos to be played.
    """
    # In one call: Arrow completes an upload when its stream is closed, for whatever reason, so that
    # an interrupt between two writes would publish half a file. A write that fails leaves an upload
    # that cannot be completed any more.
    kind = _TYPES.get(PurePosixPath(path).suffix, "application/octet-stream")
    with storage.open_output_stream(path, metadata={"Content-Type": kind}) as stream:
        stream.write(content)


def read_object(storage: fs.FileSystem, path: str) -> bytes:
    """An object's content, all of one version.

    Raises:
        FileNotFoundError: there is no such object.
    """
    # Arrow asks for the size first and then for so many bytes: those of another version, cut off,
    # if the object was replaced in between.
    while True:
        before = _version(storage, path)
        try:
            with storage.open_input_file(path) as stream:
                content = stream.read_at(stream.size(), 0)
            if _version(storage, path) == before:
                return content
        except FileNotFoundError:
            raise
        except OSError:
            if _version(storage, path) == before:
                raise


def _version(storage: fs.FileSystem, path: str) -> object:
    with storage.open_input_file(path) as stream:
        # Its size, time and, in S3, a hash of its content.
        return stream.metadata()


def remove(storage: fs.FileSystem, path: str) -> None:
    """Remove an object; one that is not there is no error."""
    try:
        storage.delete_file(path)
    except FileNotFoundError:
        return
    except OSError:
        # Arrow then makes an empty object for the folder, which not every store accepts.
        if storage.get_file_info(path).type == fs.FileType.File:
            raise


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files of processes that were killed long ago."""
    for partial in folder.glob(f".*{PARTIAL}"):
        with suppress(OSError):
            if time.time() - partial.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(partial) if partial.is_dir() else partial.unlink()


def mapped(local: Path) -> pa.Buffer:
    """The content of a local file, read as it is used."""
    if not local.stat().st_size:
        return pa.py_buffer(b"")
    with pa.memory_map(str(local)) as file:
        return file.read_buffer()


def _s3(found: fs.S3FileSystem, attempts: int) -> fs.S3FileSystem:
    # A URI has no option for retries, so that the file system is made again from its own options.
    rebuild, (options,) = found.__reduce__()
    retries = fs.AwsStandardS3RetryStrategy(max_attempts=attempts)
    patience = {"connect_timeout": _CONNECT_S, "request_timeout": _REPLY_S}
    return rebuild({**options, **patience, "retry_strategy": retries})


def _with_option(location: str, option: str) -> str:
    return f"{location}{'&' if '?' in location else '?'}{option}"


def _first_line(error: Exception, location: str) -> str:
    text = (str(error).splitlines() or [type(error).__name__])[0]
    return without_keys(text.replace(location, without_secrets(location)))
