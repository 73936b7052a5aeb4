"""The output on a file system and on an S3 server."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import BinaryIO

import pytest

from glc_ray.protocols import UserError
from glc_ray.store.catalog import read_rows
from glc_ray.store.output import Output
from glc_ray.store.paths import latents_path, video_path, work_latents_path
from glc_ray.store.storage import StorageError
from tests.store.bucket_server import ACCESS_KEY, READ_ONLY_BUCKET, SECRET_KEY, BucketServer, denied

# More than two parts of a multipart upload, which has parts of 10 MiB.
_BIG = 22 << 20


def _source(folder: Path, data: bytes) -> Path:
    path = folder / "source"
    path.write_bytes(data)
    return path


def _paths(output: Output, folder: str = "") -> list[str]:
    return [stored.path for stored in output.list(folder)]


def test_put_read_list_move_and_delete(output: Output, tmp_path: Path) -> None:
    assert output.put(_source(tmp_path, b"x" * 1000), "videos/a.mp4") == 1000
    output.put_bytes(b"y", ".work/id/segments/00000.json")
    assert _paths(output) == [".work/id/segments/00000.json", "videos/a.mp4"]
    (stored,) = output.list("videos")
    assert (stored.size, output.size("videos/a.mp4")) == (1000, 1000)
    assert abs(stored.modified_s - time.time()) < 60

    output.move("videos/a.mp4", "latents/b.safetensors")
    assert output.read_bytes("videos/a.mp4") is None
    assert output.read("videos/a.mp4") is None
    assert output.size("videos/a.mp4") is None
    assert output.read_bytes("latents/b.safetensors") == b"x" * 1000

    output.delete(".work/id")
    output.delete("latents/b.safetensors")
    output.delete("latents/b.safetensors")
    assert _paths(output) == []
    assert output.list("no/such/folder") == []


def test_a_file_is_replaced(output: Output, tmp_path: Path) -> None:
    output.put_bytes(b"old", "manifest.parquet")
    output.put_bytes(b"", "manifest.parquet")
    assert output.read_bytes("manifest.parquet") == b""
    output.put(_source(tmp_path, b""), "manifest.parquet")
    output.put_bytes(b"new", "other")
    output.move("other", "manifest.parquet")
    assert output.read_bytes("manifest.parquet") == b"new"


def test_read_seeks(output: Output) -> None:
    output.put_bytes(bytes(range(200)), "a/b")
    stream = output.read("a/b")
    assert stream is not None
    with stream:
        stream.seek(100)
        assert (stream.size(), stream.read(3)) == (200, b"def")


def test_local_copy(output: Output, tmp_path: Path) -> None:
    output.put_bytes(b"video", "a/b.mp4")
    copy = output.local_copy("a/b.mp4", tmp_path)
    assert (copy.name, copy.read_bytes()) == ("b.mp4", b"video")


def test_local_copy_of_nothing(s3_output: Output, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"/renders/a\.mp4: cannot read: .*does not exist"):
        s3_output.local_copy("a.mp4", tmp_path)


def test_a_folder_takes_the_place_of_an_older_one(output: Output, tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    frames.mkdir()
    for index in range(3):
        (frames / f"frame_{index:06d}.png").write_bytes(b"frame")
    assert output.put_folder(frames, video_path("name", "")) == 15
    (frames / "frame_000002.png").unlink()
    assert output.put_folder(frames, video_path("name", "")) == 10
    assert _paths(output) == ["videos/name/frame_000000.png", "videos/name/frame_000001.png"]


def test_paths() -> None:
    assert video_path("a") == "videos/a.mp4"
    assert video_path("a", ".webm") == "videos/a.webm"
    assert latents_path("a") == "latents/a.safetensors"
    assert work_latents_path("0123") == ".work/0123/latents.safetensors"


def test_a_reader_never_sees_half_a_file(output: Output, tmp_path: Path) -> None:
    versions = [bytes([48 + index]) * (_BIG + index * 1000) for index in (3, 1, 2, 0)]
    output.put(_source(tmp_path, versions[0]), "videos/a.mp4")
    ended, seen = threading.Event(), set()

    def read() -> None:
        while not ended.is_set():
            content = output.read_bytes("videos/a.mp4") or b""
            seen.add((len(content), content[:1], content[-1:]))

    reader = threading.Thread(target=read)
    reader.start()
    for content in versions[1:]:
        output.put(_source(tmp_path, content), "videos/a.mp4")
    ended.set()
    reader.join()
    assert seen
    assert seen <= {(len(version), version[:1], version[-1:]) for version in versions}


@pytest.mark.parametrize("older", [None, b"older"])
def test_an_upload_that_breaks_leaves_what_was_there(
    s3: BucketServer, s3_output: Output, tmp_path: Path, older: bytes | None
) -> None:
    if older is not None:
        s3_output.put_bytes(older, "videos/a.mp4")
    source = _source(tmp_path, b"x" * _BIG)

    def refuse_second_part(method: str, path: str) -> None:
        if method == "PUT" and "partNumber=2" in path:
            raise denied()

    with s3.guarded(refuse_second_part), pytest.raises(StorageError) as error:
        s3_output.put(source, "videos/a.mp4")
    assert s3_output.read_bytes("videos/a.mp4") == older
    assert str(error.value).startswith(f"{s3_output.uri('videos/a.mp4')}: cannot store: the cred")
    s3_output.put(source, "videos/a.mp4")
    assert s3_output.size("videos/a.mp4") == _BIG


def test_a_write_that_fails_in_the_middle_leaves_what_was_there(output: Output) -> None:
    output.put_bytes(b"older", "a")

    class _Interrupt(BaseException):
        pass

    with pytest.raises(_Interrupt), output.writing("a") as local:
        local.write_bytes(b"half")
        raise _Interrupt
    assert output.read_bytes("a") == b"older"
    assert _paths(output) == ["a"]
    with output.writing("a") as local:
        local.write_bytes(b"whole")
    assert output.read_bytes("a") == b"whole"


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    for name, age_s in (("old", 90_000), ("new", 60)):
        partial = tmp_path / f".{name}.partial"
        partial.write_bytes(b"half")
        os.utime(partial, (time.time() - age_s,) * 2)
    assert output.list("") == []
    output.prepare()
    assert [path.name for path in tmp_path.glob(".*.partial")] == [".new.partial"]


class _Twin(Output):
    """While it proves that it can write, another process does."""

    def _write(self, source: BinaryIO, path: str) -> None:
        super()._write(source, path)
        Output(self.location).prepare()


def test_processes_that_start_together_do_not_disturb_each_other(tmp_path: Path) -> None:
    output = _Twin(str(tmp_path / "out"))
    output.prepare()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "contact_sheets",
        "videos",
    ]


def test_a_folder_is_removed_while_others_write_into_it(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    failures: list[Exception] = []

    def write() -> None:
        try:
            for index in range(200):
                output.put_bytes(b"x", f".work/id/segments/{index}")
        except Exception as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        output.delete(".work/id")
        # Or it would be removed faster than it can be made.
        time.sleep(0.001)
    assert failures == []


def _refusal(location: str) -> str:
    started = time.monotonic()
    with pytest.raises(UserError) as error:
        Output(location).prepare()
    # pyarrow's own patience is 12 s at a closed port, and for ever at a store that is too busy.
    assert time.monotonic() - started < 10
    text = str(error.value)
    assert "\n" not in text
    return text


def test_missing_bucket(s3: BucketServer) -> None:
    text = _refusal(s3.uri("nobody", "renders"))
    assert text.startswith(
        "--output s3://nobody/renders: cannot be written: there is no such bucket: make it, or "
        "name another ("
    )


def test_unwritable_bucket(s3: BucketServer) -> None:
    text = _refusal(s3.uri(READ_ONLY_BUCKET, "renders"))
    assert text.startswith(
        f"--output s3://{READ_ONLY_BUCKET}/renders: cannot be written: the credentials were "
        "refused: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or the profile that "
        "AWS_PROFILE names) here and on all nodes, and that they may write there ("
    )


def test_wrong_credentials(
    s3: BucketServer, s3_output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    assert "the credentials were refused: check AWS_ACCESS_KEY_ID" in _refusal(s3_output.location)


def test_no_credentials(
    s3: BucketServer, s3_output: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "the credentials were refused: check AWS_ACCESS_KEY_ID" in _refusal(s3_output.location)


def test_refused_connection(s3: BucketServer) -> None:
    text = _refusal("s3://bucket/renders?scheme=http&endpoint_override=127.0.0.1:9")
    assert text.startswith(
        "--output s3://bucket/renders: cannot be written: nothing answers: check region, "
        "endpoint_override and scheme in the URI, and the network ("
    )


def test_keys_and_options_are_never_shown(s3: BucketServer) -> None:
    for location in (
        s3.uri("nobody", "renders", keys="stranger:topsecret@"),
        "s3://stranger:topsecret@nobody/renders?no_such_option=topsecret",
        "s4://stranger:topsecret@nobody/renders?scheme=topsecret",
        "s3://stranger:topsecret@/renders?scheme=topsecret",
    ):
        text = _refusal(location)
        assert "topsecret" not in text
        assert "stranger" not in text
        assert "scheme=" not in text


def test_keys_in_the_uri(s3: BucketServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "stranger")
    (s3.root / "with-keys").mkdir()
    output = Output(s3.uri("with-keys", "renders", keys="tester:not-a-secret@"))
    output.prepare()
    output.put_bytes(b"x", "a")
    assert output.read_bytes("a") == b"x"
    assert output.uri("a") == "s3://with-keys/renders/a"


def test_a_location_below_keeps_what_opens_it(s3: BucketServer, tmp_path: Path) -> None:
    (s3.root / "below").mkdir()
    for prefix, keys in (("renders", ""), ("renders/", f"{ACCESS_KEY}:{SECRET_KEY}@"), ("", "")):
        output = Output(s3.uri("below", prefix, keys))
        output.put_bytes(b'{"prompt": "a red ball"}', "comparison/catalog.jsonl")
        location = output.location_of("comparison/catalog.jsonl")
        assert location.endswith(f"/catalog.jsonl?scheme=http&endpoint_override={s3.address}")
        assert [row.line for row in read_rows(location)] == [1]
    assert Output("gs://anonymous@b/out").location_of("a") == "gs://anonymous@b/out/a"
    assert Output(f"file://{tmp_path}/").location_of("a/b") == f"{tmp_path}/a/b"
    assert Output(str(tmp_path)).location_of("a/b") == f"{tmp_path}/a/b"


def test_google_storage_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    output = Output("gs://anonymous@bucket/renders?scheme=http&endpoint_override=127.0.0.1:9")
    assert output.uri("a") == "gs://bucket/renders/a"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("report/index.html", "text/html; charset=utf-8"),
        ("report/data/index.js", "text/javascript"),
        ("videos/a ball.mp4", "video/mp4"),
        ("latents/a.safetensors", "application/octet-stream"),
    ],
)
def test_objects_say_what_browsers_are_to_do_with_them(
    s3: BucketServer, s3_output: Output, name: str, kind: str
) -> None:
    s3_output.put_bytes(b"content", name)
    (said,) = (found for path, found in s3.types.items() if path.endswith(name.replace(" ", "%20")))
    assert said == kind
