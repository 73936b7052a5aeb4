"""The state of a video between two steps, so that a killed one goes on from there.

OUTPUT/.work/ID/checkpoints/
    00012.1f0c7a52.safetensors  the state before step 12

One safetensors file each, seen when it is whole and never changed. Tensors: ``latents``, and
``tensors/NAME`` for those of the noise scheduler. Metadata, all strings: ``format``,
``format_version``, ``latents_hash`` (of all that the latents depend on), ``step_index``, ``values``
(JSON) and ``sha256`` (of all the others, of names, types and shapes, and of all tensor bytes).
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from glc_ray.foreign import from_json
from glc_ray.store.output import Output
from glc_ray.store.paths import checkpoints_path
from glc_ray.store.scratch import scratch_folder
from glc_ray.store.storage import PARTIAL, StorageError, StoredFile

FORMAT = "glc-ray checkpoint"
FORMAT_VERSION = "1"

_LATENTS = "latents"
_PREFIX = "tensors/"
_NAME = re.compile(r"(\d{5,})\.[0-9a-f]{8}\.safetensors")
_KEPT = 2
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """All that the steps from ``step_index`` on depend on, beside the specification."""

    step_index: int
    """The step that comes next."""
    latents_BFCHW: Tensor
    """z before that step, (1, K, C, H, W) float32."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Of the noise scheduler; any shape, also none."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """Of the noise scheduler and of whoever drives the video; JSON."""


def save(output: Output, video_id: str, latents_hash: str, checkpoint: Checkpoint) -> int:
    """Store a checkpoint; returns the file's size in bytes.

    Of the older ones the last is kept, in case that this one turns out damaged; the others are
    removed when this one is there.

    Args:
        output: where the video goes.
        video_id: first 16 hex digits of its specification hash.
        latents_hash: of all that its latents depend on.
        checkpoint: tensors on any device, which nobody may change before this returns.

    Raises:
        StorageError: it cannot be stored; nothing of it is left, the older ones are as they were.
    """
    tensors = _own_storage(
        {_LATENTS: checkpoint.latents_BFCHW}
        | {_PREFIX + name: tensor for name, tensor in checkpoint.tensors.items()}
    )
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "latents_hash": latents_hash,
        "step_index": str(checkpoint.step_index),
        "values": json.dumps(dict(checkpoint.values), sort_keys=True),
    }
    metadata["sha256"] = _sha256(metadata, tensors)
    name = f"{checkpoint.step_index:05d}.{uuid.uuid4().hex[:8]}.safetensors"
    path = f"{checkpoints_path(video_id)}/{name}"
    with output.writing(path) as local:
        _save_file(tensors, local, metadata)
        size = local.stat().st_size
    _prune(output, video_id, path)
    return size


def load_latest(output: Output, video_id: str, latents_hash: str) -> Checkpoint | None:
    """The last good checkpoint, its tensors on the CPU; None where there is none.

    One that is torn, corrupted or of other latents is passed over with a warning in the log.

    Raises:
        StorageError: storage cannot be read.
    """
    with scratch_folder() as folder:
        for stored in sorted(_stored(output, video_id), key=_step_index, reverse=True):
            try:
                local = output.local_copy(stored.path, Path(folder))
                checkpoint = _load(local, latents_hash)
                if checkpoint.step_index == _step_index(stored):
                    return checkpoint
                why = "its name tells of another step"
            except StorageError:
                if output.size(stored.path) is not None:
                    raise
                why = "another process has just removed it"
            except _NoCheckpointError as error:
                why = str(error)
            except (OSError, SafetensorError) as error:
                why = str(error).splitlines()[0]
            _LOG.warning(
                "%s: this checkpoint cannot be used (%s); trying the one before it",
                output.uri(stored.path),
                why,
            )
    return None


def delete(output: Output, video_id: str) -> None:
    """Remove all checkpoints of a video."""
    output.delete(checkpoints_path(video_id))


class _NoCheckpointError(Exception):
    """The file is no checkpoint that can be used; the message says why."""


def _own_storage(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU that share no memory, which the file format cannot say."""
    seen: set[int] = set()
    own = {}
    for name, given in tensors.items():
        tensor = given.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        own[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return own


def _save_file(tensors: Mapping[str, Tensor], local: Path, metadata: Mapping[str, str]) -> None:
    # The library's own temporary file is in a folder that is known as one when it is abandoned.
    try:
        with tempfile.TemporaryDirectory(PARTIAL, ".", local.parent) as folder:
            save_file(dict(tensors), Path(folder) / "checkpoint", dict(metadata))
            (Path(folder) / "checkpoint").replace(local)
    except SafetensorError as error:
        # The library hides the number of an error of the disk in its text.
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), str(error)) from error


def _load(local: Path, latents_hash: str) -> Checkpoint:
    with safe_open(local, framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise _NoCheckpointError("no checkpoint that glc-ray wrote")
        if metadata.get("format_version") != FORMAT_VERSION:
            raise _NoCheckpointError(f"of format version {metadata.get('format_version')}")
        if metadata.get("latents_hash") != latents_hash:
            raise _NoCheckpointError("of a video with other latents")
        # A copy each: what is mapped from a file may go with it.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    stated = metadata.pop("sha256", None)
    if _sha256(metadata, tensors) != stated:
        raise _NoCheckpointError("corrupted: its checksum differs")
    # Whoever may write here can make a checksum, too.
    try:
        latents_BFCHW, values = tensors.pop(_LATENTS), from_json(metadata["values"])
        step_index = int(metadata["step_index"])
    except (KeyError, ValueError) as error:
        raise _NoCheckpointError(f"no checkpoint that glc-ray wrote: {error}") from None
    if not isinstance(values, dict):
        raise _NoCheckpointError("its values are no JSON object")
    return Checkpoint(
        step_index=step_index,
        latents_BFCHW=latents_BFCHW,
        tensors={name.removeprefix(_PREFIX): tensor for name, tensor in tensors.items()},
        values=values,
    )


def _sha256(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    names = sorted(tensors)
    shapes = [[name, str(tensors[name].dtype), list(tensors[name].shape)] for name in names]
    digest = hashlib.sha256(json.dumps([metadata, shapes], sort_keys=True).encode())
    for name in names:
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _prune(output: Output, video_id: str, newest: str) -> None:
    # By the time of writing: a step's number may be of a damaged checkpoint that was passed over.
    older = [stored for stored in _stored(output, video_id) if stored.path != newest]
    older.sort(key=lambda stored: (stored.modified_s, _step_index(stored)), reverse=True)
    for stored in older[_KEPT - 1 :]:
        output.delete(stored.path)


def _stored(output: Output, video_id: str) -> list[StoredFile]:
    folder = checkpoints_path(video_id)
    return [
        stored
        for stored in output.list(folder)
        if _NAME.fullmatch(stored.path.removeprefix(f"{folder}/"))
    ]


def _step_index(stored: StoredFile) -> int:
    return int(stored.path.rpartition("/")[2].partition(".")[0])
