"""Catalogs are read row by row, whatever is wrong with some of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glc_ray.protocols import UserError
from glc_ray.store.catalog import BadRow, CatalogRow, read_rows
from tests.store.bucket_server import BucketServer

EXAMPLE = 'a line is an object such as {"prompt": "a red ball", "seed": 1}'
QUOTES = 'quote a cell with commas, quotes or line breaks, and double its quotes: "a ""b"", c"'


def rows(tmp_path: Path, name: str, content: bytes | str) -> list[CatalogRow | BadRow]:
    file = tmp_path / name
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(read_rows(str(file)))


def mistake(tmp_path: Path, name: str, content: bytes | str) -> str:
    with pytest.raises(UserError) as error:
        rows(tmp_path, name, content)
    return str(error.value).replace(str(tmp_path), "")


def test_plain_text_is_a_prompt_a_line(tmp_path: Path) -> None:
    text = "\ufeffa red ball\r\n\n  # a remark\n  a blue box  \n雪の上の猫"
    assert rows(tmp_path, "a.txt", text) == [
        CatalogRow(1, {"prompt": "a red ball"}),
        CatalogRow(4, {"prompt": "a blue box"}),
        CatalogRow(5, {"prompt": "雪の上の猫"}),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "A.JSONL"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    text = '{"prompt": "a", "seed": 3}\n\n{"glc": {"vmcr": false}, "prompt": "b", "fps": null}\n'
    assert rows(tmp_path, name, text) == [
        CatalogRow(1, {"prompt": "a", "seed": 3}),
        CatalogRow(3, {"glc": {"vmcr": False}, "prompt": "b", "fps": None}),
    ]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"[1]", "not an object; a line is one such as"),
        (b'{"prompt": "a"', "not JSON: Expecting ',' delimiter: line 1 column 15 (char 14); "),
        (b'{"prompt": "a", "prompt": "b"}', "not JSON: the key 'prompt' is there twice; "),
        (b'{"fps": NaN}', "not JSON: NaN is no number of JSON; "),
        (b'{"prompt": "\\ud800"}', "not JSON: 'utf-8' codec can't encode"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "not JSON: Exceeds the limit"),
        (b"[" * 100_000, "not JSON: maximum recursion depth"),
        (b'{"prompt": "\xff"}', "not UTF-8 at byte 12 of the line; store the file as UTF-8"),
    ],
)
def test_a_line_that_cannot_be_read_is_a_bad_row_and_the_next_goes_on(
    tmp_path: Path, line: bytes, error: str
) -> None:
    first, bad, last = rows(tmp_path, "a.jsonl", b'{"seed": 1}\n' + line + b'\n{"seed": 2}')
    assert (first, last) == (CatalogRow(1, {"seed": 1}), CatalogRow(3, {"seed": 2}))
    assert isinstance(bad, BadRow)
    assert bad.line == 2
    assert bad.error.startswith(error)
    bad.error.encode()


def test_a_pair_of_surrogates_is_a_letter(tmp_path: Path) -> None:
    assert rows(tmp_path, "a.jsonl", '{"prompt": "\\ud83d\\ude00"}') == [
        CatalogRow(1, {"prompt": "😀"})
    ]


def test_csv_has_columns_and_leaves_empty_cells_out(tmp_path: Path) -> None:
    text = (
        "\ufeff\nprompt, seed,glc.vmcr\n"
        '"a ""red"" ball,\nand a box",1,false\n,,\n\nshort\n"blue\r\nbox", ,true\n'
    )
    assert rows(tmp_path, "a.csv", text) == [
        CatalogRow(3, {"prompt": 'a "red" ball,\nand a box', "seed": "1", "glc.vmcr": "false"}),
        CatalogRow(7, {"prompt": "short"}),
        CatalogRow(8, {"prompt": "blue\nbox", "glc.vmcr": "true"}),
    ]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"a, b, 1", f"3 cells for 2 columns; {QUOTES}"),
        (b'"a"b,1', f"not CSV: ',' expected after '\"'; {QUOTES}"),
        (b"a\xff,1", "not UTF-8; store the file as UTF-8"),
    ],
)
def test_a_line_that_is_no_row_of_the_table(tmp_path: Path, line: bytes, error: str) -> None:
    assert rows(tmp_path, "a.csv", b"prompt,seed\n" + line + b"\nb,2\n") == [
        BadRow(2, error),
        CatalogRow(3, {"prompt": "b", "seed": "2"}),
    ]


def test_a_quote_that_is_not_closed_says_how_far_it_goes(tmp_path: Path) -> None:
    text = 'prompt,seed\na,1\n"b,2\nc,3\n'
    assert rows(tmp_path, "a.csv", text) == [
        CatalogRow(2, {"prompt": "a", "seed": "1"}),
        BadRow(3, f"not CSV (up to line 4): unexpected end of data; {QUOTES}"),
    ]


# No line break: Python's reader gives every kind of them back as "\n".
CELL = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=9)


@settings(max_examples=50, deadline=None)
@given(table=st.lists(st.lists(CELL, min_size=2, max_size=2), max_size=9))
def test_every_kind_of_file_says_the_same(
    table: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("kinds")
    table = [["first", "1"], *table]
    values = [
        {key: cell for key, cell in zip(("prompt", "seed"), cells, strict=True) if cell.strip()}
        for cells in table
    ]
    stream = io.StringIO()
    csv.writer(stream).writerows([["prompt", "seed"], *table])
    given_values = [value for value in values if value]
    json_text = "".join(f"{json.dumps(value)}\n" for value in given_values)
    packed = gzip.compress(json_text.encode())
    pq.write_table(
        pa.table({key: [value.get(key) for value in values] for key in ("prompt", "seed")}),
        folder / "a.parquet",
    )
    for name, content in [
        ("a.csv", stream.getvalue().encode()),
        ("a.jsonl", json_text.encode()),
        ("a.jsonl.gz", packed),
        ("a.parquet", (folder / "a.parquet").read_bytes()),
    ]:
        found = rows(folder, name, content)
        assert [row.values for row in found if isinstance(row, CatalogRow)] == given_values, name
        assert len(found) == len(given_values)


def test_parquet_keeps_types_and_leaves_nulls_out(tmp_path: Path) -> None:
    table: dict[str, Any] = {
        "prompt": ["a", None, None],
        "seed": [1, None, 2],
        "prompts": [None, None, [{"at_frame": 0, "text": "b"}]],
        "glc": [{"stride": None, "abam": True}, None, {"stride": 3, "abam": None}],
    }
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert list(read_rows(str(tmp_path / "a.parquet"))) == [
        CatalogRow(1, {"prompt": "a", "seed": 1, "glc": {"abam": True}}),
        CatalogRow(3, {"seed": 2, "prompts": [{"at_frame": 0, "text": "b"}], "glc": {"stride": 3}}),
    ]


def test_gzip_in_several_members(tmp_path: Path) -> None:
    packed = gzip.compress(b"one\n") + gzip.compress(b"two\n")
    assert [row.line for row in rows(tmp_path, "a.txt.gz", packed)] == [1, 2]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt.gz", gzip.compress(bytes(range(256)) * 400)[:200]),
        ("a.txt.gz", b"not packed"),
        ("a.parquet", b"not a table"),
    ],
)
def test_a_damaged_file(tmp_path: Path, name: str, content: bytes) -> None:
    text = mistake(tmp_path, name, content)
    assert text.startswith(f"--catalog /{name}: cannot be read: ")
    assert text.endswith("; check that it is whole")


@pytest.mark.parametrize("name", ["a.json", "a", "a.parquet.gz", "a.csv.zip"])
def test_a_kind_that_is_not_known(tmp_path: Path, name: str) -> None:
    assert mistake(tmp_path, name, "x") == (
        f"--catalog /{name}: what kind of file it is must show in its name; known are .jsonl, "
        ".ndjson, .csv, .txt, .parquet, and .gz behind those of text"
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.jsonl", ""), ("a.txt", "# nothing\n\n"), ("a.csv", "prompt,seed\n,\n"), ("a.csv", "\n")],
)
def test_a_catalog_without_rows(tmp_path: Path, name: str, content: str) -> None:
    assert mistake(tmp_path, name, content) == (
        f"--catalog /{name}: has no rows; a row asks for a video, for example "
        '{"prompt": "a red ball rolls over the meadow at day", "seed": 1}'
    )


def test_a_file_that_is_not_there_and_a_folder(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    for name, what in (("a.csv", "no such file"), ("folder.csv", "is a folder")):
        with pytest.raises(UserError) as error:
            list(read_rows(str(tmp_path / name)))
        assert str(error.value) == (
            f"--catalog {tmp_path / name}: {what}; give the path or URI of a file"
        )


def test_utf_16(tmp_path: Path) -> None:
    assert mistake(tmp_path, "a.txt", "a red ball".encode("utf-16")) == (
        "--catalog /a.txt: is UTF-16; store the file as UTF-8"
    )


@pytest.mark.parametrize(
    ("header", "shown"), [("prompt,seed, prompt", "'prompt', 'seed', 'prompt'"), ("a,", "'a', ''")]
)
def test_columns_without_a_name_of_their_own(tmp_path: Path, header: str, shown: str) -> None:
    assert mistake(tmp_path, "a.csv", f"{header}\nx,1\n") == (
        f"--catalog /a.csv: its columns must have names, each another; found {shown}"
    )


def test_columns_of_a_whole_file_are_asked_about_before_any_row(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def refuse(columns: Any) -> None:
        seen.append(columns)
        raise UserError("no such column")

    (tmp_path / "a.csv").write_text("promt,seed\nx,1\n")
    pq.write_table(pa.table({"promt": ["x"], "seed": [1]}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(UserError, match="no such column"):
            next(read_rows(str(tmp_path / name), refuse))
    assert seen == [["promt", "seed"]] * 2


def test_a_catalog_in_a_bucket(s3: BucketServer) -> None:
    (s3.root / "catalogs").mkdir(exist_ok=True)
    (s3.root / "catalogs" / "a.jsonl").write_text('{"seed": 1}\n')
    location = s3.uri("catalogs", "a.jsonl")
    assert list(read_rows(location)) == [CatalogRow(1, {"seed": 1})]
    with pytest.raises(UserError, match=r"--catalog s3://catalogs/b\.jsonl: no such file"):
        list(read_rows(s3.uri("catalogs", "b.jsonl")))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.jsonl.gz"])
def test_memory_does_not_grow_with_the_catalog(tmp_path: Path, name: str) -> None:
    prompt = "a red ball " * 90
    line = f'{{"prompt": "{prompt}"}}\n' if "json" in name else f"{prompt}\n"
    text = ("" if "json" in name else "prompt\n") + line * 20_000
    file = tmp_path / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    tracemalloc.start()
    count = sum(1 for _ in read_rows(str(file)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    # Of 20 MB a block, as bytes, as lines and once more.
    assert peak < 6 << 20
