"""Whoever may write into an output can spoil its videos, and do nothing else."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from glc_ray.backbones.model_folder import identity
from glc_ray.config import EncodeSpec, VideoJob
from glc_ray.evaluation.video_scores import ScoresFile
from glc_ray.media.ffmpeg import FFmpegError
from glc_ray.media.frame_scores import SegmentScores
from glc_ray.media.join import SegmentFile
from glc_ray.media.segments import join
from glc_ray.overview import overview
from glc_ray.overview_text import lines, video_lines
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError
from glc_ray.report_page.report import Report
from glc_ray.retry import choose, jobs
from glc_ray.runtime.assembly import _unpacked
from glc_ray.runtime.queue_summary import rows
from glc_ray.store import checkpoint, control, latents, lease, manifest, run_status
from glc_ray.store.ledger import Ledger, SegmentEntry
from glc_ray.store.output import Output
from glc_ray.store.paths import CONTROL, LEASE, RUN_STATUS
from glc_ray.store.record import VideoRecord
from glc_ray.store.storage import OutsideError, StorageError
from glc_ray.stored_job import job_from_latents
from tests.security.test_catalog import evil_parquet

DEEP = b"[" * 100_000
ESCAPE = "\x1b]0;owned\x07\n\x9b2J\u202e"


@pytest.fixture
def output(tmp_path: Path) -> Output:
    made = Output(str(tmp_path / "out"))
    made.prepare()
    return made


def _record(**values: Any) -> VideoRecord:
    own = {"id": "0" * 16, "name": "a", "prompt": "", "seed": 0, "specification_hash": ""}
    return VideoRecord(**{**own, "specification": "{}", "status": "failed", **values})


@pytest.mark.parametrize("path", ["../secret", "videos/../../secret", "/etc/passwd", "a\0b", ".."])
def test_no_path_leads_out_of_an_output(path: str, output: Output, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("mine")
    calls: list[Callable[[], object]] = [
        lambda: output.read(path),
        lambda: output.read_bytes(path),
        lambda: output.size(path),
        lambda: output.delete(path),
        lambda: output.list(path),
        lambda: output.put_bytes(b"x", path),
        lambda: output.local_copy(path, tmp_path),
        lambda: output.move("videos", path),
    ]
    for call in calls:
        with pytest.raises(OutsideError, match="outside of the output"):
            call()
    assert secret.read_text() == "mine"


def test_a_link_in_place_of_the_lock_is_not_followed(output: Output, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / "out" / ".lock").symlink_to(mine)
    with pytest.raises(OSError), output.locked():  # noqa: PT011
        pass
    assert mine.read_text() == "mine"


@pytest.mark.parametrize(
    "path", ["../../../secret", ".work/other/segments/x/00000.0001.mp4", "manifest.parquet", 5]
)
def test_a_ledger_entry_names_its_own_file_alone(path: Any, output: Output, tmp_path: Path) -> None:
    ledger = Ledger(output, "0" * 16, "f" * 64)
    assert ledger.claim(0, 1)
    own = SegmentEntry(ledger.segment_path(0, 1), "0" * 64, 4, 0, 9, "f" * 64)
    assert ledger.commit(0, 1, own)
    assert ledger.done() == {0: own}
    (file,) = [one.path for one in output.list(".work") if one.path.endswith(".json")]
    for data in (json.dumps(asdict(own) | {"path": path}).encode(), DEEP, b"[]", b'{"path": 1}'):
        output.put_bytes(data, file)
        assert ledger.done() == {}


def test_a_run_status_is_facts_or_nothing(output: Output) -> None:
    good = asdict(run_status.RunStatus("host", 1, 1.0, 2.0))
    video = {"name": ESCAPE, "state": ESCAPE, "num_frames": 9}
    hostile = [
        DEEP,
        b"[]",
        b'"x"',
        b"{}",
        *(
            json.dumps(good | change).encode()
            for change in (
                {"in_work": [5]},
                {"in_work": [{"name": 1}]},
                {"in_work": [{"name": "a", "state": "x", "steps_done": "y"}]},
                {"ended": {"done": "x"}},
                {"ended": []},
                {"started_at": float("nan")},
                {"updated_at": 10**400},
                {"num_videos": float("inf")},
                {"workers": [1]},
                {"host": {}},
            )
        ),
    ]
    for data in hostile:
        output.put_bytes(data, RUN_STATUS)
        assert run_status.read(output) is None, data[:60]
    strange = {"host": ESCAPE, "state": ESCAPE, "in_work": [video], "started_at": -1e18}
    output.put_bytes(json.dumps(good | strange).encode(), RUN_STATUS)
    manifest.upsert(output, _record(name=ESCAPE, error=ESCAPE * 3))
    found = overview(output)
    shown = "\n".join([*lines(found), *video_lines(output, found)])
    assert not set(shown) & set(ESCAPE.replace("\n", "")) - set("]0;owned2J")


def test_a_lease_is_facts_or_nothing(output: Output) -> None:
    good = {"token": "a", "host": ESCAPE, "pid": 10**18, "signed": 1e12, "holds": True}
    strange = ({"pid": "x"}, {"started": "x"}, {"replaces": 5}, {"holds": []}, {"token": None})
    for number, change in enumerate(strange):
        output.put_bytes(json.dumps(good | change).encode(), f"{LEASE}/{number}.json")
    output.put_bytes(DEEP, f"{LEASE}/deep.json")
    assert lease.holder(output) is None
    here = {"machine": lease.machine(), "started": 1e300}
    output.put_bytes(json.dumps(good | here).encode(), f"{LEASE}/b.json")
    # A process of that number cannot be: dead, whatever it says.
    assert lease.holder(output) is None
    output.put_bytes(json.dumps(good | {"started": -1e18}).encode(), f"{LEASE}/c.json")
    with (
        pytest.raises(UserError, match="another run has this output") as caught,
        lease.run_lease(output),
    ):
        pass
    assert not set(str(caught.value)) & set("\x1b\x07\x9b\u202e\n")


def test_a_control_file_is_a_name_or_nothing(output: Output) -> None:
    control.request_cancel(output, ["mine"])
    for number, data in enumerate((DEEP, b"[]", b'{"name": []}', b'{"name": "mine"}', b"")):
        output.put_bytes(data, f"{CONTROL}/{number:032x}.cancel")
    assert control.read_cancelled(output).names == {"mine"}


def test_a_checkpoint_is_tensors_or_passed_over(output: Output) -> None:
    good = checkpoint.Checkpoint(3, torch.zeros(1, 2, 3, 4, 5))
    checkpoint.save(output, "id", "hash", good)
    folder = Path(output.uri(".work/id/checkpoints"))
    base = {"format": checkpoint.FORMAT, "format_version": "1", "latents_hash": "hash"}
    hostile = [
        ({"step_index": "9"}, {"latents": torch.zeros(1)}),
        ({"step_index": "9", "values": DEEP.decode()}, {"latents": torch.zeros(1)}),
        ({"step_index": "9", "values": "[]"}, {"latents": torch.zeros(1)}),
        ({"step_index": "x", "values": "{}"}, {"latents": torch.zeros(1)}),
        ({"step_index": "9", "values": "{}"}, {"other": torch.zeros(1)}),
    ]
    for number, (metadata, tensors) in enumerate(hostile):
        # Its checksum is right: whoever writes here can make one.
        metadata = {**base, **metadata}
        metadata["sha256"] = checkpoint._sha256(metadata, tensors)
        save_file(tensors, folder / f"00009.{number:08x}.safetensors", metadata)
    found = checkpoint.load_latest(output, "id", "hash")
    assert found is not None
    assert found.step_index == 3


def _latents_with(file: Path, tensor: dict[str, Any], **metadata: str) -> Path:
    """A latents file with a header that says otherwise, its checksum mended."""
    data = file.read_bytes()
    length = int.from_bytes(data[:8], "little")
    found = json.loads(data[8 : 8 + length])
    found["__metadata__"] |= metadata
    found["latents"] |= tensor
    sha256 = latents._metadata_sha256(found["__metadata__"], found["latents"])
    found["__metadata__"]["metadata_sha256"] = sha256
    header = json.dumps(found).encode()
    hostile = file.with_name("hostile.safetensors")
    hostile.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + length :])
    return hostile


def test_latents_from_a_stranger_are_tensors_or_refused(output: Output, tmp_path: Path) -> None:
    latents.save_latents(output, "a.safetensors", torch.zeros(1, 2, 1, 2, 2), {"job": "{}"})
    file = Path(output.uri("a.safetensors"))
    hostile: list[tuple[dict[str, Any], dict[str, str]]] = [
        ({"shape": [1, -2, -1, 2, 2]}, {}),
        ({"shape": ["a", 2, 1, 2, 2]}, {}),
        ({"shape": [1, 2, 4]}, {}),
        ({"shape": [1, 2**62, 1, 2, 2]}, {}),
        ({"dtype": "I64"}, {}),
        ({}, {"chunk_frames": "0"}),
        ({}, {"chunk_frames": "x"}),
        ({}, {"chunk_sha256": "[]"}),
        ({}, {"chunk_sha256": DEEP.decode()}),
    ]
    for tensor, metadata in hostile:
        with pytest.raises(latents.CorruptLatentsError):
            latents.load_latents(None, str(_latents_with(file, tensor, **metadata)))
    for job in ("{}", DEEP.decode(), '{"prompt": "a", "pipeline": {"name": "../x"}}'):
        with pytest.raises(UserError, match="does not say how it was made"):
            job_from_latents(str(_latents_with(file, {}, job=job)), [])


def test_a_row_of_the_manifest_is_no_path(output: Output, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = load_pipeline("toyworld")
    job = VideoJob(prompt="a", pipeline=pipeline, model_identity=identity(pipeline.model))
    values = {
        "id": job.specification_hash[:16],
        "specification": job.model_dump_json(),
        "name": "../../escape",
        "path": "../../../etc/passwd",
        "scores": "../../../etc/passwd",
    }
    manifest.upsert(output, _record(**values))
    with pytest.raises(UserError, match="none of the 1 videos can be retried"):
        jobs(output, choose(output))
    assert "name = '../../escape'" in caplog.text
    report = Report(output)
    report.sync()
    assert report.write(None)
    assert {path.name for path in Path(output.uri()).parent.iterdir()} == {"out"}


def test_a_manifest_is_plain_columns_or_an_error(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray.data  # noqa: F401  registers the type that unpickles

    monkeypatch.chdir(output.uri())
    evil_parquet(Path(output.uri(manifest.MANIFEST)), "id")
    with pytest.raises(UserError, match="not a manifest"):
        manifest.read(output)
    assert not Path("pwned").exists()
    pq.write_table(pa.table({"id": [1], "status": [["x"]]}), output.uri(manifest.MANIFEST))
    with pytest.raises(UserError, match="not a manifest"):
        manifest.read(output)
    Path(output.uri(manifest.MANIFEST)).unlink()
    manifest.upsert(output, _record(specification=DEEP.decode()))
    report = Report(output)
    report.sync()
    assert report.write(None)


@pytest.mark.parametrize("column", manifest.SCHEMA.names)
def test_a_row_of_the_manifest_has_no_empty_cells(
    column: str, output: Output, tmp_path: Path
) -> None:
    true = Output(str(tmp_path / "true"))
    true.prepare()
    manifest.upsert(true, _record())
    row = pq.read_table(true.uri(manifest.MANIFEST))
    at = row.schema.get_field_index(column)
    spoiled = row.set_column(at, column, pa.nulls(1, row.schema.field(at).type))
    pq.write_table(spoiled, output.uri(manifest.MANIFEST))
    with pytest.raises(UserError, match=f"not a manifest .its column {column} has empty cells"):
        list(manifest.iter_batches(output))


def test_a_queue_runs_no_pickles(output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(output.uri())
    folder = Path(output.uri(".work/queue/run/group/0"))
    folder.mkdir(parents=True)
    evil_parquet(folder / "part-00000.parquet", "job")
    with pytest.raises((ValueError, StorageError)):
        list(rows(output, ".work/queue/run/group"))
    assert not Path("pwned").exists()


def _member(name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.type, member.linkname = len(data), kind, "/etc/passwd"
    return member


def test_a_segment_of_pictures_writes_pictures_alone(tmp_path: Path) -> None:
    archive = tmp_path / "00000.tar"
    names = ["../frame_000001.png", "/frame_000002.png", "../../x", "..", ".", "a/b", "video.json"]
    with tarfile.open(archive, "w") as tar:
        for name in names:
            tar.addfile(_member(name), io.BytesIO(b"x"))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
            tar.addfile(_member("frame_000003.png", b"", kind))
    folder = _unpacked(archive, tmp_path / "pictures")
    assert sorted(file.name for file in folder.iterdir()) == [
        "frame_000001.png",
        "frame_000002.png",
    ]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["00000.tar", "pictures"]
    packed = tmp_path / "packed.tar"
    with tarfile.open(packed, "w:gz") as tar:
        tar.addfile(_member("frame_000001.png", b"0" * 10_000_000), io.BytesIO(b"0" * 10_000_000))
    with pytest.raises(tarfile.ReadError):
        _unpacked(packed, tmp_path / "more")


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile secret.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:{secret}\n#EXT-X-ENDLIST\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n",
    ],
)
def test_a_segment_names_no_other_file(text: str, tmp_path: Path) -> None:
    """ffmpeg would read a playlist in a segment's place, and show another file's pictures."""
    secret = tmp_path / "elsewhere" / "secret.mp4"
    secret.parent.mkdir()
    segment = tmp_path / "00000.0001.mp4"
    segment.write_text(text.format(secret=secret))
    with pytest.raises(FFmpegError):
        join([SegmentFile(segment, 9)], tmp_path / "a.mp4", fps=8, settings=EncodeSpec())
    assert not (tmp_path / "a.mp4").exists()


def test_scores_are_numbers_or_an_error() -> None:
    for data in (DEEP, b"[]", b"{}", b'{"change": [1], "looks": "", "first": "x", "last": "x"}'):
        with pytest.raises(ValueError):  # noqa: PT011
            SegmentScores.from_json(data)
        with pytest.raises(ValueError):  # noqa: PT011
            ScoresFile.from_json(data)
