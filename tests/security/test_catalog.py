"""Whoever writes a catalog chooses what videos show, and nothing else."""

from __future__ import annotations

import gzip
import json
import pickle
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glc_ray.catalog import CatalogJobs
from glc_ray.media.formats import choose
from glc_ray.media.muxing import output_options
from glc_ray.names import checked_name, vbench_name
from glc_ray.pipeline_file import load_pipeline, parse_assignment
from glc_ray.protocols import UserError
from glc_ray.store.catalog import BadRow, CatalogRow, read_rows
from glc_ray.store.parquet import ForeignTypeError, open_parquet

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE_YAML = {
    "aliases": BOMB,
    "python": "!!python/object/apply:os.system ['touch pwned']",
    "deep": "[" * 10_000,
    "huge int": "9" * 10_000,
    "base 60": "1" + ":1" * 3_000,
    "no date": "2001-99-99",
    "merge": "<<: 1",
    "binary": "!!binary é",
    "set": "!!set [1]",
    "timestamp": "!!timestamp x",
    "bool": "!!bool foo",
    "no int": "!!int ''",
    "no float": "!!float ''",
    "long": "x" * 300_000,
}


@pytest.fixture(scope="module")
def jobs() -> CatalogJobs:
    return CatalogJobs("toyworld")


@pytest.mark.parametrize("kind", HOSTILE_YAML)
def test_hostile_yaml_is_an_error(kind: str, jobs: CatalogJobs, tmp_path: Path) -> None:
    text = HOSTILE_YAML[kind]
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError):
        load_pipeline(str(file))
    with pytest.raises(UserError):
        jobs.jobs(CatalogRow(1, {"prompt": "a red ball", "glc.vmcr": text}))
    with pytest.raises(UserError, match="not valid YAML"):
        parse_assignment(f"glc.vmcr={text}")
    assert not Path("pwned").exists()


@pytest.mark.parametrize("nested", ["[" * 100_000, '{"a":' * 100_000])
def test_deep_json_is_an_invalid_row(nested: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    deep = '{"prompt": "a", "glc": ' + "[" * 200 + "]" * 200 + "}"
    file.write_text(f'{nested}\n{deep}\n{{"prompt": "a red ball"}}\n')
    first, second, third = read_rows(str(file))
    assert isinstance(first, BadRow)
    assert isinstance(second, BadRow)
    assert isinstance(third, CatalogRow)


def _values() -> Iterator[Any]:
    yield from (10**400, -(10**400), 1e308, -1, True, None, "", "\0", "\x1b[31m", [], {}, [[]])
    yield from ({"a": {}}, "x" * 100_000, "../../x", "-y", "file:x", ["-i"], {"enabled": []})


KEYS = (
    *("prompt", "prompts", "name", "seed", "pipeline", "priority", "num_frames", "fps", "method"),
    *("model", "model.path", "model.revision", "model.height", "optimize.attention_backend"),
    *("sampling.scheduler", "sampling.scheduler_options", "sampling.negative_prompt", "glc.vmcr"),
    *("sampling.scheduler_options.x", "denoise.threads", "encode", "encode.encoder", "encode.crf"),
    *("encode.preset", "encode.pix_fmt", "encode.threads", "encode.frames", "encode.crop"),
    *("resources", "resources.denoisers.count", "decode.tile_height", "decode.warmup"),
)


@pytest.mark.parametrize("key", KEYS)
def test_a_hostile_value_is_a_user_error_or_harmless(key: str, jobs: CatalogJobs) -> None:
    for value in _values():
        row = {"prompt": "a red ball", key: value}
        try:
            made = jobs.jobs(CatalogRow(1, row))
        except UserError:
            continue
        for one in made:
            assert one.name == checked_name(one.name)
            choose(one.job.pipeline.encode)


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/x",
        "..",
        ".",
        "a/b",
        "a\\b",
        "a\0b",
        "a\nb",
        "a\x1b[2Jb",
        "\u202eb",
        "-/x",
        "C:x",
    ],
)
def test_a_name_is_no_path(name: str, jobs: CatalogJobs) -> None:
    with pytest.raises(UserError, match="name = "):
        jobs.jobs(CatalogRow(1, {"prompt": "a red ball", "name": name}))
    (made,) = jobs.jobs(CatalogRow(1, {"prompt": f"{name} a red ball"}))
    for own in (made.name, vbench_name(name, 0)):
        assert own == checked_name(own)


def test_a_row_cannot_name_a_pipeline_elsewhere(
    jobs: CatalogJobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere.yaml"
    here.mkdir()
    text = "model: {path: package:toyworld}\nvideo: {num_frames: 49}\nprompt: a red ball\n"
    elsewhere.write_text(text)
    (here / "mine.yaml").write_text(text)
    (here / "link.yaml").symlink_to(elsewhere)
    monkeypatch.chdir(here)
    assert jobs.jobs(CatalogRow(1, {"pipeline": "mine.yaml"}))
    for name in (str(elsewhere), "../elsewhere.yaml", "link.yaml", "/dev/../x.yaml", "\0.yaml"):
        with pytest.raises(UserError, match="a row names one of") as caught:
            jobs.jobs(CatalogRow(1, {"pipeline": name}))
        assert "package:toyworld" not in str(caught.value)


def test_a_row_cannot_choose_the_files_of_a_model(jobs: CatalogJobs, tmp_path: Path) -> None:
    for key in ("model.path", "model.revision", "model"):
        value = f"{{path: {tmp_path}}}" if key == "model" else str(tmp_path)
        with pytest.raises(UserError, match="which model's files are loaded"):
            jobs.jobs(CatalogRow(1, {"prompt": "a", key: value}))
    with pytest.raises(UserError, match="which model's files are loaded"):
        jobs.jobs(CatalogRow(1, {"prompt": "a", "model": {"path": str(tmp_path)}}))
    with pytest.raises(UserError, match="downloaded from the hub"):
        jobs.jobs(CatalogRow(1, {"prompt": "a", "optimize.attention_backend": "flash_hub"}))


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.txt", "rows.jsonl.gz"])
def test_a_line_of_100_mb_takes_bounded_memory(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    open_file = gzip.open if name.endswith(".gz") else open
    with open_file(file, "wb") as stream:  # type: ignore[operator]
        stream.write(b"prompt\n" if name.endswith(".csv") else b"")
        for _ in range(100):
            stream.write(b"x" * 1_000_000)
    tracemalloc.start()
    with pytest.raises(UserError, match="is longer than"):
        list(read_rows(str(file)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 70_000_000


def test_a_thousand_columns_are_refused_in_one_screen(jobs: CatalogJobs, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(",".join(["x" * 1000] * 1000) + "\na\n")
    with pytest.raises(UserError) as caught:
        list(read_rows(str(file), jobs.check_columns))
    assert len(str(caught.value)) < 20_000


def test_huge_texts_of_parquet_are_invalid_rows(tmp_path: Path) -> None:
    file, huge = tmp_path / "rows.parquet", "x" * 1_000_000
    # As a dictionary: a small file, of which every row would be a megabyte.
    prompts = pa.DictionaryArray.from_arrays([0] * 500 + [1], [huge, "a red ball"])
    pq.write_table(pa.table({"prompt": prompts}), file, dictionary_pagesize_limit=1 << 24)
    assert file.stat().st_size < 2_000_000
    tracemalloc.start()
    rows = list(read_rows(str(file)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert [type(row) for row in rows] == [BadRow] * 500 + [CatalogRow]
    assert peak < 20_000_000


class _Pickled(pa.ExtensionType):
    """A column as Ray Data stores Python's objects: it reads them by unpickling."""

    def __init__(self) -> None:
        super().__init__(pa.large_binary(), "ray.data.arrow_pickled_object")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> _Pickled:
        return cls()


class _Evil:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("pwned"),)


def evil_parquet(file: Path, column: str = "prompt", *, nested: bool = False) -> None:
    """A Parquet file that runs code where its rows are turned into Python's values."""
    payload = pa.array([pickle.dumps(_Evil())], pa.large_binary())
    values = pa.ExtensionArray.from_storage(_Pickled(), payload)
    if nested:
        values = pa.StructArray.from_arrays([values], ["text"])
    pq.write_table(pa.table({column: values}), file)


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_runs_no_pickles(
    nested: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data  # noqa: F401  registers the type

    monkeypatch.chdir(tmp_path)
    evil_parquet(tmp_path / "rows.parquet", nested=nested)
    with pytest.raises(UserError, match="only some program can read"):
        list(read_rows("rows.parquet"))
    with pytest.raises(ForeignTypeError):
        open_parquet(tmp_path / "rows.parquet")
    assert not Path("pwned").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder", "-y"),
        ("encoder", "libx264 -i /etc/passwd"),
        ("encoder", "copy"),
        ("preset", "-filter_complex"),
        ("preset", "medium:file=x"),
        ("pix_fmt", "yuv420p,movie=/etc/passwd"),
        ("crf", 10**9),
    ],
)
def test_ffmpeg_gets_no_words_of_a_catalog(key: str, value: Any, jobs: CatalogJobs) -> None:
    (made,) = jobs.jobs(CatalogRow(1, {"prompt": "a red ball"}))
    with pytest.raises(UserError, match=f"encode.{key} = "):
        choose(made.job.pipeline.encode.model_copy(update={key: value}))
    with pytest.raises(UserError):
        jobs.jobs(CatalogRow(1, {"prompt": "a red ball", f"encode.{key}": value}))


def test_a_title_is_one_argument(jobs: CatalogJobs) -> None:
    (made,) = jobs.jobs(CatalogRow(1, {"prompt": "-y\n;FFMETADATA1\ntitle=\0 a"}))
    encoding = choose(made.job.pipeline.encode)
    options = output_options(encoding.format, "mp4", {"title": made.job.prompt + "é" * 200_000})
    title = options["metadata:g:0"]
    assert title.startswith("title=-y\n;FFMETADATA1")
    # Linux takes no longer one.
    assert len(title.encode()) < 131_072
    assert "\0" not in title


@pytest.mark.parametrize("count", [10_000_000, 100_001, 0, -1, 2**63])
def test_a_row_cannot_ask_for_huge_tables(count: int, jobs: CatalogJobs) -> None:
    key = "sampling.scheduler_options.num_train_timesteps"
    with pytest.raises(UserError, match="must be from 1 to 100000; leave it out for the model's"):
        jobs.jobs(CatalogRow(1, {"prompt": "a red ball", key: count}))
    assert jobs.jobs(CatalogRow(1, {"prompt": "a red ball", key: 1000}))


def test_prompts_have_a_length(jobs: CatalogJobs) -> None:
    long = "ball " * 5_000
    for row in ({"prompt": long}, {"prompts": [{"at_frame": 0, "text": long}]}):
        with pytest.raises(UserError, match="characters, of which at most 20000 are taken"):
            jobs.jobs(CatalogRow(1, json.loads(json.dumps(row))))
