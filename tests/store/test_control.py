"""Requests to cancel: whatever a video is called, and read without much ado."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glc_ray.store.control import Cancelled, clear, read_cancelled, request_cancel
from glc_ray.store.output import Output
from tests.store.bucket_server import BucketServer

FOLDER = ".work/control"


def _files(output: Output) -> list[str]:
    return [stored.path for stored in output.list("")]


def test_videos_are_cancelled(output: Output) -> None:
    assert read_cancelled(output) == Cancelled()
    request_cancel(output, ["sea", "赤い/../ball"])
    request_cancel(output, ["sea"])
    cancelled = read_cancelled(Output(output.location))
    assert cancelled == Cancelled(False, frozenset({"sea", "赤い/../ball"}))
    assert "sea" in cancelled
    assert "lake" not in cancelled
    clear(output, ["sea", "lake"])
    assert read_cancelled(output).names == {"赤い/../ball"}
    clear(output)
    assert read_cancelled(output) == Cancelled()
    assert _files(output) == []


def test_the_whole_run_is_cancelled(output: Output) -> None:
    request_cancel(output, ["sea"])
    request_cancel(output)
    cancelled = read_cancelled(output)
    assert cancelled == Cancelled(True, frozenset({"sea"}))
    assert "lake" in cancelled
    # Of videos alone.
    clear(output, ["sea"])
    assert read_cancelled(output) == Cancelled(True)
    clear(output)
    assert read_cancelled(output) == Cancelled()


@given(names=st.lists(st.text(st.characters()), min_size=1, max_size=5))
@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_name_is_only_a_name(
    tmp_path_factory: pytest.TempPathFactory, names: list[str]
) -> None:
    root = tmp_path_factory.mktemp("root")
    output = Output(str(root / "out"))
    request_cancel(output, names)
    assert read_cancelled(output) == Cancelled(False, frozenset(names))
    folders = {path.parent for path in root.rglob("*") if path.is_file()}
    assert folders == {root / "out" / FOLDER}
    clear(output, names)
    assert read_cancelled(output) == Cancelled()


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"name": 1}', b'{"name": "lake"}', b"\xff"]
)
def test_foreign_files_cancel_nothing(tmp_path: Path, content: bytes) -> None:
    output = Output(str(tmp_path))
    output.put_bytes(content, f"{FOLDER}/0123456789abcdef0123456789abcdef.cancel")
    output.put_bytes(content, f"{FOLDER}/notes.txt")
    assert read_cancelled(output) == Cancelled()


def test_a_poll_is_one_listing(s3: BucketServer, s3_output: Output) -> None:
    request_cancel(s3_output, ["sea", "lake"])
    known = read_cancelled(s3_output)
    requests: list[str] = []
    with s3.guarded(lambda method, path: requests.append(f"{method} {path}")):
        assert read_cancelled(s3_output, known) == known
    assert len(requests) == 1
    assert "list-type=2" in requests[0]
    request_cancel(s3_output, ["hill"])
    assert read_cancelled(s3_output, known).names == {"sea", "lake", "hill"}
    clear(s3_output, ["lake"])
    assert read_cancelled(s3_output, known).names == {"sea"} | {"hill"}
