"""Output folder and manifest."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glc_ray.protocols import UserError
from glc_ray.store import manifest
from glc_ray.store.manifest import VideoRecord
from glc_ray.store.output import Output

RECORD = VideoRecord(
    id="0123456789abcdef",
    name="a-red-ball-01234567",
    prompt='a "red" ball, 赤い',
    seed=2**62,
    specification_hash="0123456789abcdef" * 4,
    specification="{}",
    status="done",
    num_frames=145,
)


@pytest.fixture
def output(tmp_path: Path) -> Output:
    output = Output(str(tmp_path / "out"))
    output.prepare()
    return output


def test_put_leaves_the_whole_file_and_nothing_else(output: Output, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * 100)
    assert output.put(source, "videos/a.mp4") == 100
    files = [path for path in Path(output.location).rglob("*") if path.is_file()]
    assert files == [Path(output.location) / "videos/a.mp4"]
    assert output.uri("videos/a.mp4") == str(files[0])


def test_uri_of_a_local_folder_is_that_folder(tmp_path: Path) -> None:
    output = Output(f"file://{tmp_path}/out")
    output.prepare()
    assert (tmp_path / "out" / "videos").is_dir()


def test_unwritable_output(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as error:
        Output(str(tmp_path / "file" / "out")).prepare()
    text = str(error.value)
    assert text.startswith(f"--output {tmp_path}/file/out: cannot be written (")
    assert text.endswith("give a folder that you may write, or mend its permissions")


def test_output_in_the_working_directory_of_a_ray_job(tmp_path: Path) -> None:
    folder = tmp_path / "runtime_resources" / "working_dir_files" / "_ray_pkg_1" / "out"
    with pytest.raises(UserError, match=r"lies in the copy of the working directory that Ray"):
        Output(str(folder))


def test_uri_shows_no_keys() -> None:
    output = Output("s3://key:secret@bucket/renders?region=eu-west-1")
    assert output.uri("manifest.parquet") == "s3://bucket/renders/manifest.parquet"


def test_damaged_manifest(output: Output) -> None:
    (Path(output.location) / "manifest.parquet").write_text("not parquet")
    with pytest.raises(UserError, match=r"manifest.parquet: not a manifest \(.*; move it away"):
        manifest.read(output)


def test_manifest_of_another_version(output: Output) -> None:
    row = {**asdict(RECORD), "colour": "red"}
    del row["encode_s"]
    pq.write_table(pa.Table.from_pylist([row]), Path(output.location) / "manifest.parquet")
    assert manifest.read(output) == [RECORD]


def test_unknown_kind_of_storage() -> None:
    with pytest.raises(UserError, match=r"--output floppy://a: not a path or URI that can be used"):
        Output("floppy://a")


def test_manifest_keeps_one_row_a_video(output: Output) -> None:
    assert manifest.read(output) == []
    other = replace(RECORD, id="other", status="failed", error="no luck")
    manifest.upsert(output, replace(RECORD, status="failed"))
    manifest.upsert(output, other)
    manifest.upsert(output, RECORD)
    assert manifest.read(output) == [RECORD, other]


def test_manifest_is_plain_parquet(output: Output) -> None:
    manifest.upsert(output, RECORD)
    table = pq.read_table(Path(output.location) / "manifest.parquet")
    assert table.schema.equals(manifest.SCHEMA)
    assert table["prompt"].to_pylist() == [RECORD.prompt]
