"""Segments on real Ray: however they are shared out, and whoever dies, the same video."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import ray
import torch
from PIL import Image

from glc_ray import render
from glc_ray.backbones.registry import load_frame_decoder
from glc_ray.config import DecodeSpec, VideoJob
from glc_ray.evaluation.video_scores import ScoresFile
from glc_ray.job import build_job
from glc_ray.media.decode import stream_decode
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError
from glc_ray.runtime import pipeline as graph
from glc_ray.runtime.decode_stage import DecodeEncodeStage
from glc_ray.runtime.farm import start_farm
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.messages import Timings
from glc_ray.runtime.rows import video_id
from glc_ray.runtime.stored_latents import store_timings
from glc_ray.sampler import torch_threads
from glc_ray.store.latents import load_latents
from glc_ray.store.manifest import VideoRecord
from glc_ray.store.output import Output
from glc_ray.store.paths import work_latents_path
from tests.conftest import write_tiny_pipeline
from tests.store.bucket_server import ACCESS_KEY, SECRET_KEY, BucketServer

OPTIONS = [("sampling.num_steps", 1), ("decode.segment", 2)]
"""33 frames are 9 latents: 4 segments."""
TILES = {"decode.tile_height": 8, "decode.tile_width": 8, "decode.tile_overlap": 0.5}


def pixels(output: Path, record: Any) -> np.ndarray:
    with av.open(str(output / record.path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


@dataclass(frozen=True)
class Whole:
    """A video that one decoder made, and its latents."""

    pipeline: Path
    output: Path
    record: VideoRecord

    @property
    def latents(self) -> Path:
        return self.output / "latents" / f"{self.record.name}.safetensors"


@pytest.fixture(scope="module")
def whole(
    ray_cluster: None,
    tiny_model: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    pipeline = write_tiny_pipeline(folder, tiny_model("sincos"))
    record = render(
        pipeline=str(pipeline), output=str(folder), options=dict(OPTIONS), keep_latents=True
    )
    return Whole(pipeline, folder, record)


def encoded_again(whole: Whole, output: Path, **options: Any) -> np.ndarray:
    record = render(from_latents=str(whole.latents), output=str(output), options=options)
    assert not (output / ".work" / record.id).exists()
    return pixels(output, record)


def test_two_decoders_that_share_stretches_give_the_same_frames(
    whole: Whole, tmp_path: Path
) -> None:
    shared = {"decode.parallel": "stretches", "resources.decoders.count": 2}
    expected = pixels(whole.output, whole.record)
    assert len(expected) == 33
    assert np.array_equal(encoded_again(whole, tmp_path, **shared), expected)
    (scores,) = (tmp_path / "scores").iterdir()
    assert scores.read_bytes() == (whole.output / whole.record.scores).read_bytes()


def test_scores_are_those_of_the_frames(whole: Whole) -> None:
    scores = ScoresFile.from_json((whole.output / whole.record.scores).read_bytes())
    assert (len(scores.change), len(scores.drift), scores.anchor_frames) == (32, 33, 9)
    decoded = pixels(whole.output, whole.record).astype(float)
    of_file = np.abs(np.diff(decoded, axis=0)).mean((1, 2, 3))
    # Those are of a compressed file.
    assert np.corrcoef(of_file, scores.change)[0, 1] > 0.9
    # Windows of 3 latent frames with stride 1 begin or end everywhere.
    assert scores.window_borders == tuple((frame, 1.0) for frame in range(1, 33, 4))
    with Image.open(whole.output / whole.record.preview) as preview:
        assert preview.width * 2 * 16 == preview.height * 3 * 24


def test_times_are_in_order(whole: Whole) -> None:
    one = whole.record
    times = [one.queued_at, one.started_at, one.decoding_at, one.decoded_at, one.finished_at]
    assert times[0] > 0
    assert times == sorted(times)
    # Decoders may begin in the last denoising step.
    assert one.started_at < one.denoised_at < one.finished_at
    assert one.finished_at - one.started_at == pytest.approx(one.total_s)


def test_two_decoders_that_share_tiles_give_the_same_frames(whole: Whole, tmp_path: Path) -> None:
    one = encoded_again(whole, tmp_path / "one", **TILES)
    shared = {"decode.parallel": "tiles", "resources.decoders.count": 2}
    assert np.array_equal(encoded_again(whole, tmp_path / "two", **TILES, **shared), one)


def test_kept_latents_say_what_they_are(whole: Whole) -> None:
    latents, header = load_latents(None, str(whole.latents))
    assert tuple(latents.shape) == (1, 9, 4, 4, 6)
    assert header.metadata["specification_hash"] == whole.record.specification_hash
    job = VideoJob.model_validate_json(header.metadata["job"])
    assert (job.prompt, job.latents_hash) == (
        whole.record.prompt,
        header.metadata["latents_hash"],
    )


class _Killed(DecodeEncodeStage):
    """Notes each segment that it stores, and dies after its second, once."""

    def _store(self, ledger: Any, written: Any, attempt: int) -> None:
        super()._store(ledger, written, attempt)
        log = Path(self._output.uri("stored"))
        with log.open("a") as lines:
            lines.write(f"{written.segment.index}\n")
        if log.read_text() == "0\n1\n":
            os.kill(os.getpid(), signal.SIGKILL)


def test_after_a_decoder_is_killed_only_missing_segments_are_made(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Latents are there already, as they are after a run that was killed: no denoiser works."""
    monkeypatch.setattr(graph, "DecodeEncodeStage", _Killed)
    job = build_job(load_pipeline(str(whole.pipeline), OPTIONS), None, 0)
    assert job.specification_hash == whole.record.specification_hash
    output = Output(str(tmp_path))
    output.prepare()
    output.put(whole.latents, work_latents_path(video_id(job)))
    store_timings(output, job, Timings(denoise_s=2.5, num_windows=18))
    farm = start_farm(str(tmp_path), [], job.pipeline.resources.denoisers)
    plan = graph.GraphPlan(
        job.pipeline, FilePlans(job.pipeline), num_videos=1, num_at_once=1, keep_latents=False
    )
    (record,) = graph.Graph(farm, plan).records(graph.Listed.of(job), frozenset())
    assert (record.status, record.error) == ("done", "")
    assert (record.denoise_s, record.num_windows) == (2.5, 18), "of the run that was killed"
    assert (tmp_path / "stored").read_text().split() == ["0", "1", "2", "3"]
    made, expected = tmp_path / record.path, whole.output / whole.record.path
    assert made.read_bytes() == expected.read_bytes()


class _LosesATile(DecodeEncodeStage):
    """Loses one of the actors that share its tiles after its first segment, once."""

    def _store(self, ledger: Any, written: Any, attempt: int) -> None:
        super()._store(ledger, written, attempt)
        if written.segment.index == 0:
            ray.kill(self._tile_actors[0], no_restart=False)


def test_a_lost_tile_actor_is_waited_for(
    whole: Whole, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading its VAE again takes longer than Ray lets calls to it fail."""
    expected = encoded_again(whole, tmp_path / "one", **TILES)
    shared = {**TILES, "decode.parallel": "tiles", "resources.decoders.count": 2}
    job = build_job(load_pipeline(str(whole.pipeline), (dict(OPTIONS) | shared).items()), None, 0)
    place = tmp_path / "two"
    output = Output(str(place))
    output.prepare()
    output.put(whole.latents, work_latents_path(video_id(job)))
    monkeypatch.setattr(graph, "DecodeEncodeStage", _LosesATile)
    farm = start_farm(str(place), [], job.pipeline.resources.denoisers)
    plan = graph.GraphPlan(
        job.pipeline, FilePlans(job.pipeline), num_videos=1, num_at_once=1, keep_latents=False
    )
    (record,) = graph.Graph(farm, plan).records(graph.Listed.of(job), frozenset())
    assert (record.status, record.error) == ("done", "")
    assert np.array_equal(pixels(place, record), expected)


def test_part_of_a_video_in_another_format(whole: Whole, tmp_path: Path) -> None:
    part = render(
        from_latents=str(whole.latents),
        fps=12,
        output=str(tmp_path / "part"),
        options={"encode.format": "png", "encode.frames": [11, 28], "encode.crop": [4, 2, 12, 8]},
    )
    assert (part.num_frames, part.width, part.height, part.fps) == (17, 12, 8, 12)
    assert (part.prompt, part.num_windows) == (whole.record.prompt, 0)
    files = sorted((tmp_path / "part" / part.path).glob("*.png"))
    assert [file.name for file in files] == [f"frame_{index:06d}.png" for index in range(17)]
    model = load_pipeline(str(whole.pipeline)).model
    decoder = load_frame_decoder(model, DecodeSpec(), torch.device("cpu"))
    latents, _ = load_latents(None, str(whole.latents))
    with torch_threads(1):
        frames = np.concatenate(list(stream_decode(decoder, latents)))
    expected = frames[11:28, 2:10, 4:16]
    assert np.array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), expected)
    with pytest.raises(UserError, match=r"--num-frames 49 would change the latents, which"):
        render(from_latents=str(whole.latents), num_frames=49, output=str(tmp_path))


def test_a_bucket_gets_the_same_video(whole: Whole, s3: BucketServer) -> None:
    (s3.root / "farm").mkdir()
    # Workers that run already have another environment: the keys travel in the URI.
    location = s3.uri("farm", "renders", keys=f"{ACCESS_KEY}:{SECRET_KEY}@")
    record = render(from_latents=str(whole.latents), output=location)
    stored = s3.root / "farm" / "renders" / record.path
    assert stored.read_bytes() == (whole.output / whole.record.path).read_bytes()
    work = [path for path in (s3.root / "farm" / "renders" / ".work").rglob("*") if path.is_file()]
    assert [path.name for path in work if path.parent.name != "manifest"] == ["run.json"]
