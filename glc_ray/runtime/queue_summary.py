"""What became of the rows of a catalog, and how to read those that were queued."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glc_ray.config import PipelineSpec
from glc_ray.protocols import UserError
from glc_ray.runtime.queue_stages import DONE, INVALID, QUEUED
from glc_ray.runtime.queue_writer import SHOWN_WORDS
from glc_ray.runtime.rows import Row
from glc_ray.store.catalog import BadRow
from glc_ray.store.outdated import Asked
from glc_ray.store.output import Output
from glc_ray.store.parquet import open_parquet
from glc_ray.store.storage import StorageError, without_secrets

_LOG = logging.getLogger(__name__)
_READ_ROWS = 256


@dataclass(frozen=True)
class QueueGroup:
    """Videos that can share loaded actors."""

    key: str
    """As ``glc_ray.catalog.group_of``."""
    folder: str
    """Of its part files, below the output."""
    pipeline: PipelineSpec
    """Of the first of them."""
    counts: tuple[tuple[int, int], ...]
    """(priority, videos), the highest priority first."""

    def source(self, output: Output) -> Queued:
        """Its rows, for the renderer."""
        return Queued(output.location, self.folder, sum(count for _, count in self.counts))


@dataclass(frozen=True)
class QueueSummary:
    """What became of the rows of a catalog; ``total`` is the sum of the next four."""

    total: int
    """Videos, and rows that are none."""
    queued: int
    done: int
    """In the manifest already."""
    repeated: int
    """The same specification as an earlier one of this catalog."""
    invalid: int
    groups: tuple[QueueGroup, ...]
    """Of what is queued, in the order in which they came."""
    asked: Asked
    """What the catalog asks for, done or not."""


@dataclass(frozen=True)
class Filled:
    """What the graph says at its end."""

    states: dict[str, int]
    groups: tuple[QueueGroup, ...]
    repeats: tuple[tuple[int, int], ...]
    mistake: str
    num_unknown: int
    unknown: tuple[str, ...]
    videos: NDArray[np.uint64]
    names: NDArray[np.uint64]


def summary(filled: Filled, location: str, refused: list[BadRow]) -> QueueSummary:
    """What to tell of a filled queue; raises UserError where nothing was queued."""
    option = f"--catalog {without_secrets(location)}"
    if filled.mistake:
        raise UserError(filled.mistake)
    invalid = filled.states.get(INVALID, 0)
    if refused:
        shown = "".join(f"\n  line {row.line}: {row.error}" for row in refused)
        more = f"\n  and {invalid - len(refused)} more" if invalid > len(refused) else ""
        raise UserError(
            f"{option}: {invalid} invalid, which --strict refuses; nothing was queued. Mend "
            f"them, or leave --strict out to render the others:{shown}{more}"
        )
    if repeated := filled.states.get("repeated", 0):
        lines = "; ".join(f"line {line} as line {first}" for line, first in filled.repeats)
        more = ", ..." if repeated > len(filled.repeats) else ""
        _LOG.warning(
            "%s: %d ask for a video that another row asks for, prompt, seed and settings alike; "
            "it is rendered once: %s%s",
            option,
            repeated,
            lines,
            more,
        )
    if filled.num_unknown:
        more = ", ..." if len(filled.unknown) == SHOWN_WORDS else ""
        _LOG.warning(
            "%s: %d %s words that the model does not know, such as %s%s; a render of one such "
            "prompt lists those that it knows",
            option,
            filled.num_unknown,
            "video has" if filled.num_unknown == 1 else "videos have",
            ", ".join(map(repr, filled.unknown)),
            more,
        )
    counts = {name: filled.states.get(name, 0) for name in (QUEUED, DONE, "repeated", INVALID)}
    asked = Asked(catalog_location(location), filled.videos, filled.names)
    return QueueSummary(total=sum(counts.values()), groups=filled.groups, asked=asked, **counts)


def catalog_location(location: str) -> str:
    """What rows of the manifest call a catalog: the same from every folder."""
    return without_secrets(absolute(location))


def absolute(location: str) -> str:
    """A location that means the same in every process of this machine."""
    return location if "://" in location else str(Path(location).expanduser().resolve())


@dataclass(frozen=True)
class Queued:
    """Rows of a group as a source of the renderer's."""

    output: str
    folder: str
    num_rows: int

    def rows(self) -> Iterator[Row]:
        """See ``rows``."""
        return rows(Output(self.output), self.folder)


def rows(output: Output, folder: str) -> Iterator[Row]:
    """The rows of a group, the highest priority first, then in the catalog's order.

    Args:
        output: of the run.
        folder: ``QueueGroup.folder``.

    Yields:
        ``job`` (JSON), ``name``, ``priority``, ``line``, ``id`` and ``catalog``, its location.

    Raises:
        StorageError: it cannot be read.
    """
    for path in sorted((stored.path for stored in output.list(folder)), key=_turn):
        stream = output.read(path)
        if stream is None:
            raise StorageError(f"{output.uri(path)}: has gone; another run has made a new queue")
        with stream:
            file = open_parquet(stream)
            for batch in file.iter_batches(_READ_ROWS, use_threads=False):
                yield from batch.to_pylist()


def _turn(path: str) -> tuple[int, str]:
    _, priority, name = path.rsplit("/", 2)
    return -int(priority), name
