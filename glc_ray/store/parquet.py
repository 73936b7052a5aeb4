"""Parquet files that others may have written, opened such that reading them runs nothing.

A column may say that it is of a type of some program's own. Ray Data registers one that holds
pickles, and whoever turns a value of it into Python's would run what is in there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

_DEEPEST = 32


class ForeignTypeError(ValueError):
    """A column is of a type that is not Parquet's own."""


def open_parquet(
    source: pa.NativeFile | Path, *, pre_buffer: bool = False, as_codes: Sequence[str] = ()
) -> pq.ParquetFile:
    """Open a file whose columns are all of Parquet's own types.

    Args:
        source: the file.
        pre_buffer: fetch what is read in few requests.
        as_codes: columns of texts to read as codes of a dictionary, as they are stored.

    Raises:
        ForeignTypeError: one of them is not.
        pyarrow.ArrowException, OSError: it is no such file.
    """
    file = pq.ParquetFile(source, pre_buffer=pre_buffer, read_dictionary=list(as_codes))
    for field in file.schema_arrow:
        if not _is_plain(field.type):
            raise ForeignTypeError(
                f"the column {field.name[:100]!r} is of the type {str(field.type)[:100]}, which "
                "only some program can read; store it as text or numbers"
            )
    return file


def _is_plain(kind: pa.DataType, depth: int = 0) -> bool:
    if isinstance(kind, pa.BaseExtensionType) or depth > _DEEPEST:
        return False
    if pa.types.is_dictionary(kind):
        return _is_plain(kind.value_type, depth + 1)
    return all(_is_plain(kind.field(at).type, depth + 1) for at in range(kind.num_fields))
