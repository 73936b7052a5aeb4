"""The last stage that fills a queue: in the catalog's order, it finds repeats and writes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from glc_ray.runtime.first_lines import FirstLines, Keys
from glc_ray.runtime.queue_stages import DONE, FATAL, INVALID, QUEUED
from glc_ray.store.catalog import BadRow
from glc_ray.store.output import Output

COLUMNS = ("job", "name", "priority", "line", "id")
_PART_ROWS = 8192
"""Rows that wait in memory, a few kilobytes each."""
_ROW_GROUP_ROWS = 1024
_SHOWN = 5
SHOWN_WORDS = 8

Place = tuple[str, int]
"""(group, priority)."""


class QueueWriter:
    """Writes the part files of a queue.

    Args:
        output: of the run.
        folder: of the queue, below it.
        catalog: location of the catalog, for the column of this name.
    """

    def __init__(self, output: Output, folder: str, catalog: str) -> None:
        self._output, self._folder, self._catalog = output, folder, catalog
        self._names, self._videos = FirstLines(), FirstLines()
        self._waiting: dict[Place, list[pa.Table]] = {}
        self._num_waiting = 0
        self._num_parts: Counter[Place] = Counter()
        self.states: Counter[str] = Counter()
        """How many are queued, done, repeated and invalid."""
        self.queued: Counter[Place] = Counter()
        """What is queued, in the order in which groups came."""
        self.first_jobs: dict[str, str] = {}
        """JSON of the first job of each group."""
        self.repeats: list[tuple[int, int]] = []
        """(line, line of the same video before it) of the first few."""
        self.num_unknown = 0
        """Videos that are queued and have words that their models do not know."""
        self.unknown: dict[str, None] = {}
        """The first few of these words."""
        self.mistake = ""
        """Of the whole file."""

    def add(self, videos: pa.Table) -> list[BadRow]:
        """Queue the next videos (`CHECKED`); returns those that are invalid.

        Raises:
            StorageError: they cannot be written.
        """
        state = np.array(videos["state"].to_pylist(), object)
        clashes = self._find_repeats(videos, state)
        bad = []
        for index in np.flatnonzero((state == INVALID) | (state == FATAL)):
            row = videos.slice(index, 1).select(["line", "error", "name", "prompt"]).to_pylist()[0]
            if state[index] == FATAL:
                self.mistake = row["error"]
            else:
                bad.append(BadRow(**row | {"error": clashes.get(int(index), row["error"])}))
        self.states.update(state[state != FATAL])
        queued = videos.filter(pa.array(state == QUEUED))
        self._count_unknown(queued)
        pairs = zip(queued["group"].to_pylist(), queued["priority"].to_pylist(), strict=True)
        for place, count in Counter(pairs).items():
            self._wait(place, queued, count)
        while self._num_waiting >= _PART_ROWS:
            self._write(max(self._waiting, key=self._size))
        return bad

    def close(self) -> None:
        """Write what waits (StorageError: it cannot be written)."""
        for place in list(self._waiting):
            self._write(place)

    def _find_repeats(self, videos: pa.Table, state: Any) -> dict[int, str]:
        """Change the state of what is there twice; returns the errors of names, by index."""
        at = np.flatnonzero((state == QUEUED) | (state == DONE))
        keys, names, lines = (videos[name].to_numpy()[at] for name in ("key", "name_key", "line"))
        is_new = not (self._videos.find(keys).any() or self._names.find(names).any())
        if is_new and len(np.unique(keys)) == len(keys) == len(np.unique(names)):
            self._videos.add(keys, lines)
            self._names.add(names, lines)
            return {}
        clashes = {}
        for place, index in enumerate(at):
            key, name, line = (column[place : place + 1] for column in (keys, names, lines))
            if same := int(self._videos.find(key)[0]):
                state[index] = "repeated"
                if len(self.repeats) < _SHOWN:
                    self.repeats.append((int(line[0]), same))
            elif other := int(self._names.find(name)[0]):
                state[index] = INVALID
                clashes[int(index)] = _clash(videos["name"][int(index)].as_py(), other)
            else:
                self._videos.add(key, line)
                self._names.add(name, line)
        return clashes

    def _count_unknown(self, queued: pa.Table) -> None:
        some = queued["unknown"].filter(pc.not_equal(queued["unknown"], ""))
        self.num_unknown += len(some)
        for words in some.to_pylist() if len(self.unknown) < SHOWN_WORDS else ():
            self.unknown |= dict.fromkeys(words.split())
            if len(self.unknown) >= SHOWN_WORDS:
                self.unknown = dict.fromkeys(list(self.unknown)[:SHOWN_WORDS])
                return

    @property
    def videos(self) -> Keys:
        """Ids of all videos that the catalog asks for, as sorted numbers."""
        return self._videos.keys()

    @property
    def names(self) -> Keys:
        """Keys of their names, sorted."""
        return self._names.keys()

    def _wait(self, place: Place, queued: pa.Table, count: int) -> None:
        group, priority = place
        if count < len(queued):
            is_here = pc.and_(
                pc.equal(queued["group"], group), pc.equal(queued["priority"], priority)
            )
            queued = queued.filter(is_here)
        self.first_jobs.setdefault(group, queued["job"][0].as_py())
        self.queued[place] += count
        self._waiting.setdefault(place, []).append(queued.select(COLUMNS))
        self._num_waiting += count

    def _size(self, place: Place) -> int:
        return sum(map(len, self._waiting[place]))

    def _write(self, place: Place) -> None:
        self._num_waiting -= self._size(place)
        table = pa.concat_tables(self._waiting.pop(place))
        table = table.append_column("catalog", pa.repeat(self._catalog, len(table)))
        group, priority = place
        path = f"{self._folder}/{group}/{priority}/part-{self._num_parts[place]:05d}.parquet"
        self._num_parts[place] += 1
        with self._output.writing(path) as local:
            pq.write_table(table, local, compression="zstd", row_group_size=_ROW_GROUP_ROWS)


def _clash(name: str, line: int) -> str:
    return (
        f"name = {name!r}: line {line} has this name, or one that differs in upper and lower case "
        "alone; give another name"
    )
