"""The page's data: scripts that hand over JSON, for a page from file:// may read nothing else.

OUTPUT/report/data/
    index.js            the run, and which files of rows there are
    rows-00000.js       250 videos each, in the order in which they were first seen
    videos/ID.js        scores and long texts of a video, read when it is opened
    pipelines/HASH.js   specifications without what is a video's own

A file of rows that is full changes only when one of its videos is rendered again. Each time that
something is stored the index differs, so that it tells whether another process wrote meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from glc_ray.foreign import from_json
from glc_ray.protocols import UserError
from glc_ray.report_page.rows import Json, PageRow
from glc_ray.store.output import Output
from glc_ray.store.paths import REPORT

FORMAT = 1
ROWS_PER_FILE = 250
_DATA = f"{REPORT}/data"
_ROWS_FILE = re.compile(r"rows-(\d{5,})\.js")


class ForeignDataError(UserError):
    """What is stored is another version's, torn, or another process's since it was read."""

    def __init__(self) -> None:
        super().__init__(
            "the report page is written by other processes, too, again and again; make it when "
            "they have ended: glc-ray report OUTPUT"
        )


@dataclass
class _Chunk:
    """A file of rows: what is known of it without reading it."""

    ids: list[str]
    counts: Counter[str]
    digest: str = ""
    rows: list[Json] | None = None
    """Those that are in memory: of files that are to be written, and of the last one."""
    is_changed: bool = False

    def entry(self) -> list[Any]:
        """In the index: number of rows, digest, number by status."""
        return [len(self.ids), self.digest, {key: n for key, n in self.counts.items() if n}]


@dataclass
class DataFiles:
    """The files of an output's report, of which as few are read and written as can be.

    Args:
        output: where the report is.

    Raises:
        StorageError: storage cannot be read or written.
        ForeignDataError: what is stored is not what is known, of ``load`` not what it can be;
            then ``load``, or ``clear``.
    """

    output: Output
    _chunks: list[_Chunk] = field(default_factory=list)
    _known: dict[str, tuple[int, float, str]] = field(default_factory=dict)
    """File of a video's row, when it came to its status, and the digest of its evaluation."""
    _pipelines: set[str] = field(default_factory=set)
    _index: str = ""
    """Digest of the index as it was read or written last; empty: there was none."""

    @property
    def num_rows(self) -> int:
        """How many videos there are."""
        return len(self._known)

    def load(self) -> None:
        """Find out what is there, in place of what was known."""
        self._chunks, self._known, self._pipelines = [], {}, set()
        # First: what is written from now on is noticed.
        self._index = self._read_index()
        files = self.output.list(_DATA)
        numbers = []
        for file in files:
            name = file.path.removeprefix(f"{_DATA}/")
            if match := _ROWS_FILE.fullmatch(name):
                numbers.append(int(match[1]))
            elif name.startswith("pipelines/"):
                self._pipelines.add(name.removeprefix("pipelines/").removesuffix(".js"))
        if sorted(numbers) != list(range(len(numbers))):
            raise ForeignDataError
        for number in range(len(numbers)):
            rows, digest = self._read(number)
            ids = [str(row["id"]) for row in rows]
            self._chunks.append(_Chunk(ids, Counter(row["status"] for row in rows), digest))
            self._known |= {row["id"]: _known(number, row) for row in rows}
        if len(self._known) != sum(len(chunk.ids) for chunk in self._chunks):
            raise ForeignDataError

    def clear(self) -> None:
        """Forget and remove everything."""
        self.output.delete(_DATA)
        self._chunks, self._known, self._pipelines, self._index = [], {}, set(), ""

    def has(self, video: str, finished_at: float) -> bool:
        """Whether a video is there as it came to its status then, or later."""
        return video in self._known and self._known[video][1] >= finished_at

    def has_newer(self, video: str, finished_at: float) -> bool:
        """Whether a video is there as it came to its status later than then."""
        return video in self._known and self._known[video][1] > finished_at

    def evaluation(self, video: str) -> str:
        """Digest of the evaluation that a video's row is of; empty: of none."""
        return self._known[video][2] if video in self._known else ""

    def has_others(self, videos: set[str]) -> bool:
        """Whether there are videos beside these."""
        return not self._known.keys() <= videos

    def put(self, page_row: PageRow) -> None:
        """Add a video, or replace its row; ``flush`` stores that."""
        row = page_row.row
        if page_row.pipeline is not None and page_row.pipeline["hash"] not in self._pipelines:
            self._pipelines.add(page_row.pipeline["hash"])
            self._write(f"pipelines/{page_row.pipeline['hash']}.js", "pipeline", page_row.pipeline)
        if page_row.video is not None:
            self._write(f"videos/{row['id']}.js", "video", page_row.video)
        number = self._known[row["id"]][0] if row["id"] in self._known else self._open_chunk()
        chunk, rows = self._to_change(number)
        if row["id"] in self._known:
            place = chunk.ids.index(row["id"])
            chunk.counts[rows[place]["status"]] -= 1
            rows[place] = row
        else:
            chunk.ids.append(row["id"])
            rows.append(row)
        chunk.counts[row["status"]] += 1
        self._known[row["id"]] = _known(number, row)

    def drop(self, video: str) -> None:
        """Remove a video's row, if it has one; ``flush`` stores that."""
        if video not in self._known:
            return
        chunk, rows = self._to_change(self._known.pop(video)[0])
        place = chunk.ids.index(video)
        del chunk.ids[place]
        chunk.counts[rows.pop(place)["status"]] -= 1

    def flush(self, facts: Json) -> None:
        """Store the rows that were put, and then the index, with ``facts`` in it."""
        with self.output.locked():
            if self._read_index() != self._index:
                raise ForeignDataError
            self._flush(facts)

    def _flush(self, facts: Json) -> None:
        for number, chunk in enumerate(self._chunks):
            if chunk.is_changed:
                data = {"format": FORMAT, "file": number, "rows": chunk.rows}
                chunk.digest = self._write(f"rows-{number:05d}.js", "rows", data)
                chunk.is_changed = False
            if number < len(self._chunks) - 1:
                chunk.rows = None
        counts = sum((chunk.counts for chunk in self._chunks), Counter[str]())
        index = {
            **facts,
            "format": FORMAT,
            "num_rows": self.num_rows,
            "counts": dict(counts),
            "files": [chunk.entry() for chunk in self._chunks],
        }
        self._index = self._write("index.js", "index", index)

    def _to_change(self, number: int) -> tuple[_Chunk, list[Json]]:
        """A file of rows, and its rows."""
        chunk = self._chunks[number]
        if chunk.rows is None:
            chunk.rows, digest = self._read(number)
            if digest != chunk.digest:
                raise ForeignDataError
        chunk.is_changed = True
        return chunk, chunk.rows

    def _open_chunk(self) -> int:
        if not self._chunks or len(self._chunks[-1].ids) >= ROWS_PER_FILE:
            self._chunks.append(_Chunk([], Counter(), rows=[]))
        return len(self._chunks) - 1

    def _write(self, name: str, kind: str, data: Json) -> str:
        """Store a script; returns a digest of it."""
        # ASCII alone, so that no letter of a prompt means anything to a parser of scripts.
        text = f"glcReport.{kind}({json.dumps(data, separators=(',', ':'))});\n".encode()
        self.output.put_bytes(text, f"{_DATA}/{name}")
        return _digest(text)

    def _read_index(self) -> str:
        text = self.output.read_bytes(f"{_DATA}/index.js")
        return "" if text is None else _digest(text)

    def _read(self, number: int) -> tuple[list[Json], str]:
        text = self.output.read_bytes(f"{_DATA}/rows-{number:05d}.js") or b""
        try:
            if not (text.startswith(b"glcReport.rows(") and text.endswith(b");\n")):
                raise ValueError
            data = from_json(text[len(b"glcReport.rows(") : -len(b");\n")])
            rows = data["rows"]
            if (data["format"], data["file"]) != (FORMAT, number):
                raise ValueError
            # All that is needed of each.
            assert all(isinstance(row["id"] + row["status"], str) for row in rows)
            assert all(isinstance(row["finished_at"], float | int) for row in rows)
        except (ValueError, KeyError, TypeError, AssertionError) as error:
            raise ForeignDataError from error
        return rows, _digest(text)


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:8]


def _known(number: int, row: Json) -> tuple[int, float, str]:
    return number, row["finished_at"], str(row.get("evaluation", ""))
