"""Final latents as a safetensors file, written and read in chunks, each with its checksum.

One tensor ``latents`` (1, K, C, H, W) float32; metadata, all strings: ``format`` and
``format_version``, what the caller gives (``job``, ``specification_hash``), ``num_latent_frames``,
``chunk_frames`` (latent frames a chunk), ``chunk_sha256`` (JSON list, so that a range can be
checked without the rest), ``sha256`` (of all tensor bytes) and ``metadata_sha256`` (of the others).

The library writes a tensor in one piece, of which it makes a copy; so the header, which is a length
and JSON, is written here. What is written, the library reads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from glc_ray.foreign import from_json
from glc_ray.protocols import UserError
from glc_ray.store.output import Output
from glc_ray.store.storage import StorageError

FORMAT = "glc-ray latents"
FORMAT_VERSION = "1"
TENSOR = "latents"

_FOREIGN = "not a file of latents that glc-ray wrote"
_CHUNK_BYTES = 8 << 20
_LENGTH_BYTES = 8
_LONGEST_HEADER = 100_000_000
_OF_A_USER = "give a file that --keep-latents wrote, or render the video again"
_OF_A_RUN = "run the same command again, and it is made anew"


class CorruptLatentsError(UserError):
    """A file of latents is not what was written: no use in reading it again."""


@dataclass(frozen=True)
class LatentsHeader:
    """What a latents file says of itself."""

    shape: tuple[int, int, int, int, int]
    """(1, K, C, H, W)."""
    metadata: dict[str, str]
    """As given to ``save_latents``, and the format's own."""
    data_start: int
    """Byte at which the tensor begins."""

    @property
    def frame_bytes(self) -> int:
        """Bytes of one latent frame."""
        return 4 * self.shape[2] * self.shape[3] * self.shape[4]

    @property
    def chunk_frames(self) -> int:
        """Latent frames under one checksum."""
        return int(self.metadata["chunk_frames"])


def save_latents(
    output: Output, path: str, latents_BFCHW: Tensor, metadata: Mapping[str, str]
) -> int:
    """Store final latents; returns the file's size in bytes.

    Args:
        output: where the video goes.
        path: below it.
        latents_BFCHW: (1, K, C, H, W) float32.
        metadata: further strings, such as ``job`` and ``specification_hash``.

    Raises:
        StorageError: the file cannot be stored; nothing of it is left.
    """
    if latents_BFCHW.dtype != torch.float32 or latents_BFCHW.dim() != 5 or len(latents_BFCHW) != 1:
        raise ValueError(
            f"latents must be (1, K, C, H, W) float32, not {tuple(latents_BFCHW.shape)} "
            f"{latents_BFCHW.dtype}"
        )
    header = _header(latents_BFCHW, metadata)
    with output.writing(path) as local, local.open("wb") as file:
        file.write(header)
        for chunk in _chunks(latents_BFCHW):
            file.write(chunk)
        size = file.tell()
    return size


def load_latents(
    output: Output | None, path: str, *, frames: slice | None = None
) -> tuple[Tensor, LatentsHeader]:
    """Read final latents, or a range of their frames; every byte is checked as it passes.

    Args:
        output: that ``path`` is below; None where ``path`` is a local path or a URI.
        path: of the file.
        frames: latent frames to read, step 1; None reads all.

    Returns:
        (1, k, C, H, W) float32, and the header of the whole file.

    Raises:
        CorruptLatentsError: it is foreign, cut short or corrupted.
        UserError: there is no such file, or it has no such frames.
        StorageError: storage cannot be read.
    """
    with _opened(output, path) as file:
        first, last = _range(file, frames)
        _, _, *picture = file.header.shape
        latents = torch.empty((last - first, *picture), dtype=torch.float32)
        step = file.header.chunk_frames
        for start in range(first - first % step, last, step):
            chunk_FCHW = file.chunk(start)
            begin, end = max(first, start), min(last, start + step)
            latents[begin - first : end - first] = chunk_FCHW[begin - start : end - start]
        if last - first == file.header.shape[1]:
            file.check_whole()
        return latents[None], file.header


def read_header(output: Output | None, path: str) -> LatentsHeader:
    """What a latents file says of itself; as ``load_latents``, without the tensor."""
    with _opened(output, path) as file:
        return file.header


def copy_latents(source: str, output: Output, path: str) -> None:
    """Copy a latents file to ``path`` below ``output``, checked as it passes.

    Args:
        source: a local path or a URI.
        output, path: where it goes.

    Raises:
        CorruptLatentsError: it is foreign, cut short or corrupted.
        UserError: there is no such file.
        StorageError: it cannot be read or stored.
    """
    with _opened(None, source) as file, output.writing(path) as local, local.open("wb") as copy:
        copy.write(file.start())
        header = file.header
        for first in range(0, header.shape[1], header.chunk_frames):
            chunk_FCHW = file.chunk(first)
            copy.write(chunk_FCHW.numpy().astype("<f4", copy=False).tobytes())
        file.check_whole()


class _LatentsFile:
    """An open latents file whose header was checked."""

    def __init__(self, stream: pa.NativeFile, name: str, advice: str) -> None:
        self._stream = stream
        self.name = name
        self._advice = advice
        self.header = self._read_header()
        self._checksums = json.loads(self.header.metadata["chunk_sha256"])
        self._whole = hashlib.sha256()

    def __enter__(self) -> _LatentsFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def start(self) -> bytes:
        """Everything before the tensor."""
        self._stream.seek(0)
        return self._stream.read(self.header.data_start)

    def chunk(self, start: int) -> Tensor:
        """The chunk that begins at latent frame ``start``: (k, C, H, W)."""
        header = self.header
        end = min(start + header.chunk_frames, header.shape[1])
        data = self._read((end - start) * header.frame_bytes, start * header.frame_bytes)
        if hashlib.sha256(data).hexdigest() != self._checksums[start // header.chunk_frames]:
            raise self.error(
                f"latent frames {start} to {end - 1} are corrupted (their checksum differs)"
            )
        self._whole.update(data)
        # A copy, for the file's own memory is read-only and is gone when the file is closed.
        array = np.frombuffer(data, dtype="<f4").astype(np.float32)
        return torch.from_numpy(array).reshape(end - start, *header.shape[2:])

    def check_whole(self) -> None:
        """After all chunks: the checksum of the tensor."""
        if self._whole.hexdigest() != self.header.metadata["sha256"]:
            raise self.error("the tensor is corrupted (its checksum differs)")

    def error(self, what: str) -> CorruptLatentsError:
        return CorruptLatentsError(f"{self.name}: {what}; {self._advice}")

    def _read(self, num_bytes: int, start: int) -> pa.Buffer:
        try:
            self._stream.seek(self.header.data_start + start)
            return self._stream.read_buffer(num_bytes)
        except (OSError, pa.ArrowException) as failure:
            # It may well be whole.
            raise StorageError(f"{self.name}: cannot be read ({failure}); try again") from None

    def _read_header(self) -> LatentsHeader:
        size = self._stream.size()
        length = int.from_bytes(self._stream.read(_LENGTH_BYTES), "little")
        if not 2 <= length <= _LONGEST_HEADER:
            raise self.error("not a safetensors file")
        text = self._stream.read(length)
        if len(text) < length:
            raise self.error(f"not a safetensors file, or cut short in its header ({size} bytes)")
        try:
            found = from_json(text)
            metadata, tensor = found["__metadata__"], found[TENSOR]
            if metadata["format"] != FORMAT:
                raise KeyError
        except (ValueError, KeyError, TypeError):
            raise self.error(_FOREIGN) from None
        if metadata.get("format_version") != FORMAT_VERSION:
            raise self.error(
                f"latents of format version {metadata.get('format_version')}, where this glc-ray "
                f"reads version {FORMAT_VERSION}"
            )
        if metadata.get("metadata_sha256") != _metadata_sha256(metadata, tensor):
            raise self.error("the header is corrupted (its checksum differs)")
        if not _is_ours(metadata, tensor):
            # Whoever writes a file can make its checksums, too.
            raise self.error(_FOREIGN)
        header = LatentsHeader(tuple(tensor["shape"]), metadata, _LENGTH_BYTES + length)
        expected = header.data_start + header.shape[1] * header.frame_bytes
        if size != expected:
            short = "cut short" if size < expected else "too long"
            raise self.error(f"{short} ({size} bytes, where {expected} are right)")
        return header


def _opened(output: Output | None, path: str) -> _LatentsFile:
    advice = _OF_A_USER if output is None else _OF_A_RUN
    if output is None:
        # A URI's options are the whole output's.
        place, *options = path.split("?", 1) if "://" in path else [str(Path(path).resolve())]
        folder, _, path = place.rpartition("/")
        output = Output("?".join([folder or "/", *options]))
    stream = output.read(path)
    if stream is None:
        raise UserError(f"{output.uri(path)}: there is no such file; {advice}")
    try:
        return _LatentsFile(stream, output.uri(path), advice)
    except UserError:
        stream.close()
        raise


def _range(file: _LatentsFile, frames: slice | None) -> tuple[int, int]:
    num_frames = file.header.shape[1]
    if frames is None:
        return 0, num_frames
    if frames.step not in (None, 1):
        raise ValueError(f"latent frames are read with step 1, not {frames.step}")
    first = 0 if frames.start is None else frames.start
    last = num_frames if frames.stop is None else frames.stop
    if not 0 <= first < last <= num_frames:
        raise UserError(
            f"{file.name}: has no latent frames {first} to {last - 1}; choose a range within 0 to "
            f"{num_frames - 1}"
        )
    return first, last


def _chunks(latents_BFCHW: Tensor) -> Iterator[memoryview]:
    for chunk in latents_BFCHW[0].split(_chunk_frames(latents_BFCHW)):
        yield memoryview(chunk.contiguous().cpu().numpy().astype("<f4", copy=False)).cast("B")


def _chunk_frames(latents_BFCHW: Tensor) -> int:
    return max(1, _CHUNK_BYTES // max(1, 4 * latents_BFCHW[0, 0].numel()))


def _header(latents_BFCHW: Tensor, metadata: Mapping[str, str]) -> bytes:
    whole, checksums = hashlib.sha256(), []
    for chunk in _chunks(latents_BFCHW):
        whole.update(chunk)
        checksums.append(hashlib.sha256(chunk).hexdigest())
    tensor = {
        "dtype": "F32",
        "shape": list(latents_BFCHW.shape),
        "data_offsets": [0, 4 * latents_BFCHW.numel()],
    }
    strings = {
        **metadata,
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "num_latent_frames": str(latents_BFCHW.shape[1]),
        "chunk_frames": str(_chunk_frames(latents_BFCHW)),
        "chunk_sha256": json.dumps(checksums),
        "sha256": whole.hexdigest(),
    }
    strings["metadata_sha256"] = _metadata_sha256(strings, tensor)
    text = json.dumps({"__metadata__": strings, TENSOR: tensor}).encode()
    # Spaces at the end, so that the tensor is aligned.
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _is_ours(metadata: Mapping[str, Any], tensor: Mapping[str, Any]) -> bool:
    """Whether a header whose checksum is right can be read: all types, and numbers that agree."""
    try:
        shape, step = tensor["shape"], int(metadata["chunk_frames"])
        checksums = from_json(metadata["chunk_sha256"])
        is_shape = (
            len(shape) == 5
            and shape[0] == 1
            and all(type(side) is int and side > 0 for side in shape)
        )
        return (
            is_shape
            and tensor["dtype"] == "F32"
            and step > 0
            and len(checksums) == -(-shape[1] // step)
            and all(isinstance(one, str) for one in (*metadata.values(), *checksums))
        )
    except (KeyError, ValueError, TypeError):
        return False


def _metadata_sha256(metadata: Mapping[str, Any], tensor: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in metadata.items() if key != "metadata_sha256"}
    return hashlib.sha256(json.dumps([rest, tensor], sort_keys=True).encode()).hexdigest()
