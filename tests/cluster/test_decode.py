"""Segments on real Ray: however they are shared out, and whoever dies, the same video."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import ray

from glc_ray import render
from glc_ray.config import VideoJob
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError
from glc_ray.runtime import pipeline as graph
from glc_ray.runtime.board import Board
from glc_ray.runtime.decode_stage import DecodeEncodeStage
from glc_ray.runtime.rows import video_id
from glc_ray.store.latents import load_latents, read_header
from glc_ray.store.output import Output
from glc_ray.store.paths import work_latents_path
from tests.cluster.test_bit_equality import actors
from tests.store.bucket_server import ACCESS_KEY, SECRET_KEY, BucketServer

SEGMENTS = {"decode.segment": 2}
"""33 frames are 9 latents: 4 segments."""
TILES = {"decode.tile_height": 8, "decode.tile_width": 8, "decode.tile_overlap": 0.5}


def pixels(output: Path, record: Any) -> np.ndarray:
    with av.open(str(output / record.path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return np.stack(frames)


def rendered(pipeline: Path, output: Path, **options: Any) -> np.ndarray:
    record = render(pipeline=str(pipeline), steps=1, output=str(output), options=options)
    assert not (output / ".work").exists() or not list((output / ".work").iterdir())
    return pixels(output, record)


def test_one_decoder_and_two_that_share_stretches_give_the_same_frames(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    one = rendered(tiny_pipeline, tmp_path / "one", **SEGMENTS)
    shared = {"decode.parallel": "stretches", "resources.decoders.count": 2}
    two = rendered(tiny_pipeline, tmp_path / "two", **SEGMENTS, **shared)
    assert len(one) == 33
    assert np.array_equal(one, two)


def test_one_decoder_and_two_that_share_tiles_give_the_same_frames(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    one = rendered(tiny_pipeline, tmp_path / "one", **TILES)
    shared = {"decode.parallel": "tiles", "resources.decoders.count": 2}
    two = rendered(tiny_pipeline, tmp_path / "two", **TILES, **shared)
    assert np.array_equal(one, two)


def test_latents_are_kept_and_say_what_they_are(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    record = render(pipeline=str(tiny_pipeline), steps=1, output=str(tmp_path), keep_latents=True)
    latents, header = load_latents(Output(str(tmp_path)), f"latents/{record.name}.safetensors")
    assert tuple(latents.shape) == (1, 9, 4, 4, 6)
    assert header.metadata["specification_hash"] == record.specification_hash
    assert VideoJob.model_validate_json(header.metadata["job"]).prompt == record.prompt


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
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "DecodeEncodeStage", _Killed)
    spec = load_pipeline(str(tiny_pipeline), [("sampling.num_steps", 1), *SEGMENTS.items()])
    job = build_job(spec, None, 0)
    board = ray.remote(Board).options(num_cpus=0).remote()
    with actors(job, 1) as workers:
        run = graph._Graph(job.pipeline, str(tmp_path / "out"), workers, board, False)
        (record,) = run.records([job])
    assert (record.status, record.error) == ("done", "")
    assert (tmp_path / "out" / "stored").read_text().split() == ["0", "1", "2", "3"]
    whole = rendered(tiny_pipeline, tmp_path / "whole", **SEGMENTS)
    assert np.array_equal(pixels(tmp_path / "out", record), whole)


def test_what_is_stored_is_not_made_again(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """A run that ended before it joined: latents and some segments are there."""
    options = [("sampling.num_steps", 1), *SEGMENTS.items()]
    job = build_job(load_pipeline(str(tiny_pipeline), options), None, 0)
    record = render(
        pipeline=str(tiny_pipeline),
        output=str(tmp_path / "whole"),
        options=dict(options),
        keep_latents=True,
    )
    assert record.specification_hash == job.specification_hash
    output = Output(str(tmp_path / "again"))
    output.prepare()
    kept = tmp_path / "whole" / "latents" / f"{record.name}.safetensors"
    output.put(kept, work_latents_path(video_id(job)))
    assert read_header(output, work_latents_path(video_id(job))).shape[1] == 9
    again = render(
        pipeline=str(tiny_pipeline), output=str(tmp_path / "again"), options=dict(options)
    )
    assert (again.num_windows, again.denoise_s) == (0, 0.0), "not denoised again"
    assert (tmp_path / "again" / again.path).read_bytes() == (
        tmp_path / "whole" / record.path
    ).read_bytes()


def test_kept_latents_are_encoded_again_in_part_and_without_denoisers(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    lossless = {"encode.format": "ffv1", **SEGMENTS}
    whole = render(
        pipeline=str(tiny_pipeline),
        steps=1,
        output=str(tmp_path / "whole"),
        options=lossless,
        keep_latents=True,
    )
    latents = tmp_path / "whole" / "latents" / f"{whole.name}.safetensors"
    part = render(
        from_latents=str(latents),
        fps=12,
        output=str(tmp_path / "part"),
        options={"encode.frames": [11, 28], "encode.crop": [4, 2, 12, 8]},
    )
    assert (part.num_frames, part.width, part.height, part.fps) == (17, 12, 8, 12)
    assert (part.prompt, part.num_windows) == (whole.prompt, 0)
    expected = pixels(tmp_path / "whole", whole)[11:28, 2:10, 4:16]
    assert np.array_equal(pixels(tmp_path / "part", part), expected)
    with pytest.raises(UserError, match=r"video.num_frames = 49 would change the latents; set"):
        render(from_latents=str(latents), num_frames=49, output=str(tmp_path))


def test_a_bucket_gets_the_same_video(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path, s3: BucketServer
) -> None:
    (s3.root / "farm").mkdir()
    # Workers that run already have another environment: the keys travel in the URI.
    location = s3.uri("farm", "renders", keys=f"{ACCESS_KEY}:{SECRET_KEY}@")
    record = render(pipeline=str(tiny_pipeline), steps=1, output=location, options=SEGMENTS)
    stored = sorted(path.relative_to(s3.root) for path in s3.root.rglob("*") if path.is_file())
    names = [str(path) for path in stored if str(path).startswith("farm")]
    assert f"farm/renders/{record.path}" in names
    work = [name for name in names if "/.work/" in name and "/.work/manifest/" not in name]
    assert work == [], "latents and segments are gone"


def test_other_formats_are_stored_with_their_suffix(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    record = render(
        pipeline=str(tiny_pipeline),
        steps=1,
        output=str(tmp_path),
        options={"encode.format": "png", **SEGMENTS},
    )
    names = sorted(path.name for path in (tmp_path / record.path).glob("*.png"))
    assert names == [f"frame_{index:06d}.png" for index in range(33)]
    assert json.loads((tmp_path / record.path / "video.json").read_text())
