"""Bad things that happen to one video: its row says what, where and what to do; the others are
done, and the same command again does only what is missing."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import av
import pytest
import ray
import torch

from glc_ray.backbones.registry import facts
from glc_ray.config import VideoJob
from glc_ray.job import build_job, video_name
from glc_ray.media.ffmpeg import FFMPEG_VARIABLE, find_ffmpeg
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime import pipeline as graph
from glc_ray.runtime.decode_stage import DecodeEncodeStage
from glc_ray.runtime.denoiser import start_denoisers
from glc_ray.runtime.farm import start_farm
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.rows import ledger_of, video_id
from glc_ray.store.latents import read_header, save_latents
from glc_ray.store.manifest import VideoRecord
from glc_ray.store.output import Output
from glc_ray.store.paths import video_path, work_latents_path
from tests.conftest import write_tiny_pipeline
from tests.media.clips import running_ffmpegs
from tests.store.bucket_server import ACCESS_KEY, SECRET_KEY, BucketServer, denied
from tests.store.test_disk_full import small_disk  # noqa: F401

GOES_ON = "what is finished is kept, and the same command goes on from there"
LAST_FRAMES = "decode and encode of frames 17 to 32"
"""9 latents are two segments of two temporal batches each."""
MakeJob = Callable[..., VideoJob]


@pytest.fixture
def job_of(tiny_model: Callable[[str], Path], tmp_path: Path) -> MakeJob:
    pipeline = write_tiny_pipeline(tmp_path, tiny_model("sincos"))
    shared = {"sampling.num_steps": 1, "decode.segment": 4}

    def make(prompt: str, num_frames: int = 33, **encode: Any) -> VideoJob:
        own = {f"encode.{key}": value for key, value in encode.items()}
        own["video.num_frames"] = num_frames
        return build_job(load_pipeline(str(pipeline), (shared | own).items()), prompt, 0)

    return make


def store_latents(output: Output, job: VideoJob) -> None:
    """As a run leaves them that was killed when it had denoised."""
    pipeline = job.pipeline
    shape = facts(pipeline.model).latents_shape(pipeline.video.num_frames)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    metadata = {"job": job.model_dump_json(), "latents_hash": job.latents_hash}
    save_latents(output, work_latents_path(video_id(job)), latents, metadata)


def records(
    location: str, jobs: Sequence[VideoJob], *, denoises: bool = False
) -> dict[str, VideoRecord]:
    """Render in a graph of this process, whose stages a test may replace."""
    return {record.prompt: record for record in rendered(location, jobs, denoises=denoises)}


def rendered(
    location: str, jobs: Sequence[VideoJob], *, denoises: bool = False
) -> Iterator[VideoRecord]:
    """As ``records``, one by one."""
    pipeline = jobs[0].pipeline
    denoisers = start_denoisers(pipeline) if denoises else []
    farm = start_farm(location, denoisers, pipeline.resources.denoisers)
    files = FilePlans(pipeline, len(jobs))
    plan = graph.GraphPlan(pipeline, files, num_videos=len(jobs), num_at_once=1, keep_latents=False)
    return graph.Graph(farm, plan).records(graph.Listed.of(*jobs), frozenset())


def check_done(output: Path, record: VideoRecord, num_frames: int = 33) -> None:
    """The file is whole."""
    assert (record.status, record.error) == ("done", "")
    with av.open(str(output / record.path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == record.num_frames == num_frames


def stored(log: Path) -> list[str]:
    """Segment and attempt of all segments that were stored, in order."""
    return log.read_text().split()


class _Logged(DecodeEncodeStage):
    """Notes each segment that it stores, beside the output."""

    def _store(self, ledger: Any, written: Any, attempt: int) -> None:
        super()._store(ledger, written, attempt)
        path = ledger.segment_path(written.segment.index, attempt, "")
        self._note(f"{path.split('/')[1]}/{path.rpartition('/')[2]}")

    def _note(self, line: str) -> None:
        with Path(self._output.uri()).with_name("stored").open("a") as lines:
            lines.write(f"{line}\n")


class _Unlucky(_Logged):
    """Has an ffmpeg that lacks most encoders, and kills it in the middle of a segment, once."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        os.environ[FFMPEG_VARIABLE] = str(Path(self._output.uri()).with_name("small"))

    def _make(self, job: VideoJob, *arguments: Any) -> Any:
        decoder = self._decoder
        if job.prompt == "killed":
            self._decoder = _Killing(decoder)
        try:
            return super()._make(job, *arguments)
        finally:
            self._decoder = decoder


class _Killing:
    """A decoder that kills the encoders of its process before the fourth temporal batch, which is
    the second of the second segment."""

    def __init__(self, decoder: Any) -> None:
        self.facts, self.device = decoder.facts, decoder.device
        self._decoder, self._calls = decoder, 0

    def decode_tile(self, *arguments: Any) -> Any:
        self._calls += 1
        if self._calls == 4:
            # The shell that stands for ffmpeg may still have to become it.
            deadline = time.monotonic() + 60
            while not (encoders := running_ffmpegs()) and time.monotonic() < deadline:
                time.sleep(0.01)
            (encoder,) = encoders
            os.kill(encoder, signal.SIGKILL)
        return self._decoder.decode_tile(*arguments)


def test_faults_of_single_videos_and_the_same_command_again(
    ray_cluster: None, job_of: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tmp_path / "small"
    small.write_text(
        "#!/bin/sh\n"
        f'case $2 in -encoders) echo " V....D libx264";; *) exec {find_ffmpeg()} "$@";; esac\n'
    )
    small.chmod(0o755)
    killed, corrupt = job_of("killed"), job_of("corrupt")
    encoder = job_of("encoder", format="h265")
    odd = job_of("odd", crop=[0, 0, 11, 9])
    # Another length, too, and a part of it.
    jobs = [killed, corrupt, encoder, odd, job_of("good", 17, frames=[9, 16])]
    place = tmp_path / "out"
    output = Output(str(place))
    output.prepare()
    for job in jobs:
        store_latents(output, job)
    path = place / work_latents_path(video_id(corrupt))
    content = bytearray(path.read_bytes())
    content[read_header(None, str(path)).data_start] ^= 1
    path.write_bytes(content)

    with monkeypatch.context() as patched:
        patched.setattr(graph, "DecodeEncodeStage", _Unlucky)
        first = records(str(place), jobs)
    check_done(place, first["good"], 7)
    assert {record.status for prompt, record in first.items() if prompt != "good"} == {"failed"}
    assert first["killed"].error == (
        f"{LAST_FRAMES}: ffmpeg was killed by signal 9, by somebody or for want of memory:\n"
        f"(it said nothing)\n({GOES_ON})"
    )
    assert first["corrupt"].error == (
        f"decode and encode of frames 0 to 16: {path}: latent frames 0 to 8 are corrupted (their "
        "checksum differs); run the same command again, and it is made anew"
    )
    assert first["encoder"].error == (
        f"decode and encode of frames 0 to 16: encode.format = 'h265': the ffmpeg {small} lacks "
        f"the encoder libx265; name an ffmpeg that has it by {FFMPEG_VARIABLE}=/path/to/ffmpeg"
    )
    assert first["odd"].error == (
        "decode and encode of frames 0 to 16: the picture is 11 x 9 pixels, but yuv420p halves the "
        "colour and needs even sides; use 10 x 8 or 12 x 10, or encode.pix_fmt = 'yuv444p', which "
        "takes any size"
    )

    # What the errors say is done: another pixel format, another ffmpeg; else the same command.
    mended = [killed, corrupt, encoder, job_of("odd", crop=[0, 0, 11, 9], pix_fmt="yuv444p")]
    store_latents(output, mended[3])
    monkeypatch.setattr(graph, "DecodeEncodeStage", _Logged)
    again = records(str(place), mended, denoises=True)
    for record in again.values():
        check_done(place, record)
    made = [line for line in stored(tmp_path / "stored") if line.startswith(video_id(killed))]
    assert [line.partition("/")[2] for line in made] == ["00000.0001", "00001.0002"]
    assert {prompt for prompt, record in again.items() if record.num_windows} == {"corrupt"}
    assert (again["odd"].width, again["odd"].height) == (11, 9)
    assert len(list((place / "videos").iterdir())) == 5


class _Sick(_Logged):
    """Its device fails at the second segment, once."""

    def _store(self, ledger: Any, written: Any, attempt: int) -> None:
        failed = Path(self._output.uri()).with_name("failed")
        if written.segment.index and not failed.exists():
            failed.touch()
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        super()._store(ledger, written, attempt)


def test_a_video_goes_on_in_another_process_where_the_device_fails(
    ray_cluster: None, job_of: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, job = tmp_path / "out", job_of("sick")
    output = Output(str(place))
    output.prepare()
    store_latents(output, job)
    monkeypatch.setattr(graph, "DecodeEncodeStage", _Sick)
    check_done(place, records(str(place), [job])["sick"])
    made = [line.partition("/")[2] for line in stored(tmp_path / "stored")]
    assert made == ["00000.0001", "00001.0002"]


class _Cancelling(_Logged):
    """Somebody cancels the video while its first segment is stored."""

    def _store(self, ledger: Any, written: Any, attempt: int) -> None:
        super()._store(ledger, written, attempt)
        ray.get(self._board.cancel.remote([self._unwanted], False))

    def __call__(self, row: Any) -> Any:
        self._unwanted = row["name"]
        return super().__call__(row)


def test_a_video_that_is_cancelled_while_it_is_decoded_stops_at_the_next_segment(
    ray_cluster: None, job_of: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, job = tmp_path / "out", job_of("unwanted")
    output = Output(str(place))
    output.prepare()
    store_latents(output, job)
    with monkeypatch.context() as patched:
        patched.setattr(graph, "DecodeEncodeStage", _Cancelling)
        record = records(str(place), [job])["unwanted"]
    assert (record.status, record.error) == (
        "cancelled",
        "cancelled while it was decoded; what is stored is kept",
    )
    monkeypatch.setattr(graph, "DecodeEncodeStage", _Logged)
    check_done(place, records(str(place), [job])["unwanted"])
    made = [line.partition("/")[2] for line in stored(tmp_path / "stored")]
    assert [line.partition(".")[0] for line in made] == ["00000", "00001"]


class _Second(_Logged):
    """Does not begin with the second video before somebody has the record of the first."""

    def __call__(self, row: Any) -> Any:
        recorded = Path(self._output.uri()).with_name("recorded")
        deadline = time.monotonic() + 120
        while row["name"].startswith("second") and not recorded.exists():
            if time.monotonic() > deadline:
                return {**row, "error": "the first has no record"}
            time.sleep(0.05)
        return super().__call__(row)


def test_a_record_does_not_wait_for_the_next_video(
    ray_cluster: None, job_of: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, jobs = tmp_path / "out", [job_of("first", 17), job_of("second", 17)]
    output = Output(str(place))
    output.prepare()
    for job in jobs:
        store_latents(output, job)
    monkeypatch.setattr(graph, "DecodeEncodeStage", _Second)
    found = []
    for record in rendered(str(place), jobs):
        found.append((record.prompt, record.error))
        (tmp_path / "recorded").touch()
    assert found == [("first", ""), ("second", "")]


class _Filling(_Logged):
    """The disk fills up when a segment is stored: of the video that comes first its first, so that
    there is no room for the next one, of the other its last, so that there is none for the video.
    """

    _full_after = -1

    def __call__(self, row: Any) -> Any:
        self._filler = Path(self._output.uri("filler"))
        self._full_after += 1
        answer = super().__call__(row)
        if self._full_after == 0:
            self._filler.unlink()
        return answer

    def _store(self, ledger: Any, written: Any, attempt: int) -> None:
        super()._store(ledger, written, attempt)
        if written.segment.index == self._full_after:
            with suppress(OSError), self._filler.open("wb", buffering=0) as filler:
                while filler.write(bytes(4096)):
                    pass


def test_a_disk_that_is_full_when_a_segment_or_the_video_is_stored(
    ray_cluster: None,
    job_of: MakeJob,
    small_disk: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Room for all of it, until the disk fills up.
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    output = Output(str(small_disk))
    output.prepare()
    jobs = [job_of("one"), job_of("other")]
    for job in jobs:
        store_latents(output, job)
    monkeypatch.setattr(graph, "DecodeEncodeStage", _Filling)
    found = records(str(small_disk), jobs).values()
    assert {record.status for record in found} == {"failed"}
    segment, video = sorted(found, key=lambda record: record.error)
    end = f"cannot store: the disk is full: make room, or give another --output; {GOES_ON}"
    assert segment.error.startswith(f"{LAST_FRAMES}: {small_disk}/.work/{segment.id}/segments/")
    assert segment.error.endswith(end)
    assert video.error == f"join: {small_disk}/{video_path(video.name)}: {end}"
    assert list((small_disk / "videos").iterdir()) == []

    (small_disk / "filler").unlink()
    monkeypatch.setattr(graph, "DecodeEncodeStage", _Logged)
    for record in records(str(small_disk), jobs).values():
        check_done(small_disk, record)
    # Nothing that was there was made again.
    made = [
        *(f"{segment.id}/{name}" for name in ("00000.0001", "00001.0002")),
        *(f"{video.id}/{name}" for name in ("00000.0001", "00001.0001")),
    ]
    assert sorted(stored(tmp_path / "stored")) == sorted(made)


@pytest.fixture
def refused(s3: BucketServer) -> Iterator[set[str]]:
    """Ends of the names that the bucket refuses to write."""
    ends: set[str] = set()

    def guard(method: str, path: str) -> None:
        if method in ("PUT", "POST") and path.split("?")[0].endswith(tuple(ends)):
            raise denied()

    with s3.guarded(guard):
        yield ends


@pytest.mark.slow
def test_a_bucket_that_may_not_be_written_any_more(
    ray_cluster: None, job_of: MakeJob, s3: BucketServer, refused: set[str]
) -> None:
    bucket = s3.root / "faults"
    bucket.mkdir()
    output = Output(s3.uri("faults", "out", keys=f"{ACCESS_KEY}:{SECRET_KEY}@"))
    segment, video = job_of("segment"), job_of("video")
    jobs = [segment, video, job_of("good")]
    for job in jobs:
        store_latents(output, job)
    refused |= {ledger_of(output, segment).segment_path(1, 1), video_path(video_name(video))}
    first = records(output.location, jobs)
    check_done(bucket / "out", first["good"])
    for prompt, where, path in (
        ("segment", LAST_FRAMES, f".work/{video_id(segment)}/segments/"),
        ("video", "join", video_path(video_name(video))),
    ):
        error = first[prompt].error
        assert error.startswith(f"{where}: s3://faults/out/{path}")
        assert "cannot store: the credentials were refused: check AWS_ACCESS_KEY_ID and" in error
        assert error.endswith(f"; {GOES_ON}")
    refused.clear()
    again = records(output.location, [segment, video])
    for record in again.values():
        check_done(bucket / "out", record)
