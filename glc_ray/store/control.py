"""What people ask of a run that goes on: to cancel some of its videos, or all.

OUTPUT/.work/control/
    run.cancel                               the whole run
    1f0c7a52c09d3f447b11e9a0d2a5c3f8.cancel  one video; the name is in the file

A name may be anything, so that its file is called after its hash. A file never changes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

from glc_ray.foreign import from_json
from glc_ray.store.output import Output
from glc_ray.store.paths import CONTROL

_SUFFIX = ".cancel"
_EVERYTHING = f"{CONTROL}/run{_SUFFIX}"


@dataclass(frozen=True)
class Cancelled:
    """What is to be cancelled."""

    everything: bool = False
    names: frozenset[str] = frozenset()
    """Of videos; a run may have none of that name."""

    def __contains__(self, name: str) -> bool:
        return self.everything or name in self.names


def request_cancel(output: Output, names: Sequence[str] = ()) -> None:
    """Ask the run to cancel videos at their next step.

    Args:
        output: of the run.
        names: of videos, whether or not they are being rendered; none asks for the whole run.

    Raises:
        StorageError: it cannot be stored.
    """
    if not names:
        output.put_bytes(b"{}", _EVERYTHING)
    for name in names:
        output.put_bytes(json.dumps({"name": name}).encode(), _path(name))


def read_cancelled(output: Output, known: Cancelled | None = None) -> Cancelled:
    """What is to be cancelled now: one listing, and each new request is read once.

    Args:
        output: of the run.
        known: what the last call returned.

    Raises:
        StorageError: storage cannot be read.
    """
    paths = {_path(name): name for name in known.names} if known else {}
    everything, names = False, set()
    for stored in output.list(CONTROL):
        if stored.path == _EVERYTHING:
            everything = True
        elif stored.path.endswith(_SUFFIX):
            name = paths.get(stored.path) or _read(output, stored.path)
            if name is not None:
                names.add(name)
    return Cancelled(everything, frozenset(names))


def clear(output: Output, names: Sequence[str] = ()) -> None:
    """Take requests back, or forget them when they are met.

    Args:
        output: of the run.
        names: of videos; none forgets all requests.

    Raises:
        StorageError: it cannot be removed.
    """
    if not names:
        output.delete(CONTROL)
    for name in names:
        output.delete(_path(name))


def _path(name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{CONTROL}/{digest[:32]}{_SUFFIX}"


def _read(output: Output, path: str) -> str | None:
    """The name in a file; None where it was taken back, or is none of ours."""
    try:
        name = from_json(output.read_bytes(path) or b"")["name"]
        return name if _path(name) == path else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
