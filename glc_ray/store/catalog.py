"""Catalogs: files that ask for many videos, read row by row in bounded memory.

JSON lines, CSV, Parquet and plain text (a prompt a line), local or by URI; text also gzipped. What
the values mean is no matter here.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from glc_ray.protocols import UserError
from glc_ray.store.parquet import ForeignTypeError, open_parquet
from glc_ray.store.storage import connect, explain, resolved, without_secrets

_BLOCK_BYTES = 1 << 20
_BATCH_ROWS = 1024
_LONGEST_LINE = 1 << 24
_LONGEST_CELL = 1 << 17
"""Characters in Parquet; the csv module's limit, too."""
_BATCH_BYTES = 1 << 26
_DEEPEST = 32
_TEXTS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
_SHOWN = 100
"""Characters of a name of a column, and columns, in an error."""
# Bytes that are not UTF-8, as Python's "surrogateescape" keeps them.
_ESCAPED = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True)
class CatalogRow:
    """What a row says."""

    line: int
    """Where it begins in the file, from 1; of Parquet the number of the row."""
    values: dict[str, Any]
    """By column: texts in CSV and plain text, JSON values elsewhere. A cell without a value and a
    null of Parquet, which has a place for every key in every row, are left out."""


@dataclass(frozen=True)
class BadRow:
    """A row that is no video."""

    line: int
    error: str
    """What is wrong with it, and what to do."""
    name: str = ""
    """As far as it has one."""
    prompt: str = ""
    """As far as it has one."""


Rows: TypeAlias = Iterator[CatalogRow | BadRow]
CheckColumns: TypeAlias = Callable[[Sequence[str]], None]
"""Raises UserError where the columns of a whole file are not those of a catalog."""


def read_rows(location: str, check_columns: CheckColumns | None = None) -> Rows:
    """The rows of a catalog, one after the other; one that cannot be read does not end it.

    Blank lines are none, and in plain text neither are those that begin with ``#``.

    Args:
        location: a path or a URI.
        check_columns: is asked about the columns of a file that names them at its head.

    Raises:
        UserError: the file cannot be read, is of no known kind, names a column twice or has no
            rows.
    """
    reader = _reader(location)
    empty = True
    try:
        for row in reader(_Source(location, check_columns)):
            empty = False
            yield row
    except (OSError, EOFError, pa.ArrowException, ForeignTypeError) as error:
        raise UserError(
            f"--catalog {without_secrets(location)}: cannot be read: {explain(error, location)}; "
            "check that it is whole"
        ) from None
    if empty:
        raise UserError(
            f"--catalog {without_secrets(location)}: has no rows; a row asks for a video, for "
            'example {"prompt": "a red ball rolls over the meadow at day", "seed": 1}'
        )


@dataclass(frozen=True)
class _Source:
    """A catalog to read."""

    location: str
    check_columns: CheckColumns | None = None

    @property
    def option(self) -> str:
        """As a person gave it."""
        return f"--catalog {without_secrets(self.location)}"

    def connect(self) -> tuple[fs.FileSystem, str]:
        """File system and path of the file."""
        _, path, filesystem = connect(resolved(self.location, "--catalog"), "--catalog")
        kind = filesystem.get_file_info(path).type
        if kind != fs.FileType.File:
            what = "is a folder" if kind == fs.FileType.Directory else "no such file"
            raise UserError(f"{self.option}: {what}; give the path or URI of a file")
        return filesystem, path

    def check(self, columns: list[str]) -> None:
        """Refuse columns that are there twice, or that no catalog has (UserError)."""
        if max(Counter(columns).values(), default=0) > 1 or "" in columns:
            raise UserError(
                f"{self.option}: its columns must have names, each another; found "
                f"{', '.join(repr(name[:_SHOWN]) for name in columns[:_SHOWN])}"
            )
        if self.check_columns is not None:
            self.check_columns(columns)


def _reader(location: str) -> Callable[[_Source], Rows]:
    path = location.partition("?")[0].lower()
    suffixes = Path(path.removesuffix(".gz")).suffix
    reader = _READERS.get(suffixes)
    if reader is None or (path.endswith(".gz") and reader is _parquet_rows):
        raise UserError(
            f"--catalog {without_secrets(location)}: what kind of file it is must show in its "
            f"name; known are {', '.join(_READERS)}, and .gz behind those of text"
        )
    return reader


def _json_rows(source: _Source) -> Rows:
    for number, text in _lines(source):
        if isinstance(text, UnicodeDecodeError):
            yield BadRow(number, _not_utf8(text))
        elif text.strip():
            yield _json_row(number, text)


def _json_row(number: int, text: str) -> CatalogRow | BadRow:
    try:
        values = json.loads(text, object_pairs_hook=_each_once, parse_constant=_no_constant)
        if "\\ud" in text.lower():
            # An escape can say half a surrogate pair, which is no text.
            json.dumps(values, ensure_ascii=False).encode()
        _check_nesting(values)
    except (ValueError, RecursionError) as error:
        return BadRow(number, f"not JSON: {error}; a line is an object such as {_EXAMPLE}")
    if not isinstance(values, dict):
        return BadRow(number, f"not an object; a line is one such as {_EXAMPLE}")
    return CatalogRow(number, values)


def _check_nesting(value: Any) -> None:
    """Raises ValueError where a value is nested more deeply than any that a row has."""
    waiting = [(value, 0)]
    while waiting:
        one, level = waiting.pop()
        if level > _DEEPEST:
            raise ValueError(f"nested more than {_DEEPEST} levels deep")
        if isinstance(one, dict | list):
            items = one.values() if isinstance(one, dict) else one
            waiting += [(item, level + 1) for item in items]


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        (twice, _), *_ = Counter(key for key, _ in pairs).most_common(1)
        raise ValueError(f"the key {twice!r} is there twice")
    return values


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def _text_rows(source: _Source) -> Rows:
    for number, text in _lines(source):
        if isinstance(text, UnicodeDecodeError):
            yield BadRow(number, _not_utf8(text))
        elif (prompt := text.strip()) and not prompt.startswith("#"):
            yield CatalogRow(number, {"prompt": prompt})


def _csv_rows(source: _Source) -> Rows:
    # Line breaks within quotes stay, so every line is read as it is.
    reader = csv.reader(_texts(source), strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            until = f" (up to line {reader.line_num})" if reader.line_num > start else ""
            yield BadRow(start, f"not CSV{until}: {error}; {_QUOTES}")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            source.check(header)
        elif len(cells) > len(header):
            yield BadRow(start, f"{len(cells)} cells for {len(header)} columns; {_QUOTES}")
        elif any(map(_ESCAPED.search, cells)):
            yield BadRow(start, f"not UTF-8; {_STORE_AS_UTF8}")
        else:
            pairs = zip(header, cells, strict=False)
            yield CatalogRow(start, {key: cell for key, cell in pairs if cell.strip()})


def _parquet_rows(source: _Source) -> Rows:
    filesystem, path = source.connect()
    number = 0
    with filesystem.open_input_file(path) as stream:
        schema = open_parquet(stream).schema_arrow
        source.check(schema.names)
        # A text that many rows share is stored once, and need not be there once for each.
        texts = [field.name for field in schema if pa.types.is_string(field.type)]
        file = open_parquet(stream, as_codes=texts)
        for batch in _parquet_batches(file):
            for values in batch.to_pylist() if _is_short(batch) else _one_by_one(batch):
                number += 1
                if values is None:
                    yield BadRow(number, f"a text of more than {_LONGEST_CELL} characters")
                elif given := _without_nulls(values):
                    yield CatalogRow(number, given)


def _parquet_batches(file: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    """Batches of as many rows as a bounded memory holds, by what the file says of their size."""
    for group in range(file.num_row_groups):
        told = file.metadata.row_group(group)
        rows = _BATCH_BYTES * told.num_rows // max(1, told.total_byte_size)
        size = max(1, min(_BATCH_ROWS, rows))
        yield from file.iter_batches(size, row_groups=[group], use_threads=False)


def _is_short(batch: pa.RecordBatch) -> bool:
    """Whether all of its texts are."""
    return all(_longest(column) <= _LONGEST_CELL for column in batch.columns)


def _longest(column: pa.Array) -> int:
    """Bytes of the longest text of a column; 0 where it has none."""
    texts = column.dictionary if pa.types.is_dictionary(column.type) else column
    if not any(is_kind(texts.type) for is_kind in _TEXTS):
        return 0
    return pc.max(pc.binary_length(texts)).as_py() or 0


def _one_by_one(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | None]:
    """Rows of a batch; None for those with a text that is too long."""
    for index in range(len(batch)):
        # Only what this row has of the texts that all rows share.
        own = [
            column.dictionary.take(column.indices)
            if pa.types.is_dictionary(column.type)
            else column
            for column in batch.slice(index, 1).columns
        ]
        if max(map(_longest, own)) > _LONGEST_CELL:
            yield None
        else:
            yield pa.RecordBatch.from_arrays(own, batch.schema.names).to_pylist()[0]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _lines(source: _Source) -> Iterator[tuple[int, str | UnicodeDecodeError]]:
    """Numbered lines; of one that is not UTF-8 what is wrong with it."""
    filesystem, path = source.connect()
    number = 0
    # Arrow unpacks by the name.
    with filesystem.open_input_stream(path) as stream:
        rest = stream.read(len(codecs.BOM_UTF8)).removeprefix(codecs.BOM_UTF8)
        if rest.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise UserError(f"{source.option}: is UTF-16; {_STORE_AS_UTF8}")
        while block := stream.read(_BLOCK_BYTES):
            *whole, rest = (rest + block).split(b"\n")
            for line in whole:
                number += 1
                yield number, _decoded(line)
            if len(rest) > _LONGEST_LINE:
                raise UserError(
                    f"{source.option}: line {number + 1} is longer than "
                    f"{_LONGEST_LINE} bytes; is it a text file?"
                )
    if rest:
        for last in rest.split(b"\n"):
            number += 1
            yield number, _decoded(last)


def _texts(source: _Source) -> Iterator[str]:
    """Lines for the CSV reader, whose quoted cells may span several; what is not UTF-8 in them is
    made of surrogates, which no text has."""
    for _, text in _lines(source):
        if isinstance(text, str):
            yield f"{text}\n"
        else:
            yield text.object.decode("utf-8", "surrogateescape") + "\n"


def _decoded(line: bytes) -> str | UnicodeDecodeError:
    try:
        return line.removesuffix(b"\r").decode("utf-8")
    except UnicodeDecodeError as error:
        return error


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8 at byte {error.start} of the line; {_STORE_AS_UTF8}"


_STORE_AS_UTF8 = "store the file as UTF-8"
_QUOTES = 'quote a cell with commas, quotes or line breaks, and double its quotes: "a ""b"", c"'
_EXAMPLE = '{"prompt": "a red ball", "seed": 1}'
_READERS: dict[str, Callable[[_Source], Rows]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".csv": _csv_rows,
    ".txt": _text_rows,
    ".parquet": _parquet_rows,
}
