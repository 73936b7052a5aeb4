"""The whole path on real Ray: prompt in, files and manifest out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import pytest
import ray
from PIL import Image

from glc_ray import render
from glc_ray.cli import RenderError
from glc_ray.config import VideoJob
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.pipeline import Listed, Renderer
from glc_ray.runtime.rows import job_of
from glc_ray.store import manifest
from glc_ray.store.output import Output


def num_frames(path: Path) -> int:
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_python_front_door_writes_video_sheet_and_manifest(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    record = render(pipeline=str(tiny_pipeline), seed=3, fps=12, output=str(output))
    name = f"a-red-ball-{record.specification_hash[:8]}"
    expected = [
        f"contact_sheets/{name}.png",
        "manifest.parquet",
        f"previews/{name}.jpg",
        f"scores/{name}.json",
        f"videos/{name}.mp4",
    ]
    seen = [file for file in files(output) if not file.startswith((".", "report/"))]
    assert seen == expected
    assert f"{name}.mp4" in (output / "report/data/rows-00000.js").read_text()
    index = (output / "report/data/index.js").read_text()
    assert json.loads(index[len("glcReport.index(") : -len(");\n")])["run"]["state"] == "done"
    assert num_frames(output / record.path) == 33
    with Image.open(output / record.contact_sheet) as sheet:
        assert sheet.width > 100
    assert manifest.read(Output(str(output))) == [record]
    assert (record.status, record.error, record.seed, record.fps) == ("done", "", 3, 12)
    assert (record.width, record.height, record.num_frames) == (24, 16, 33)
    assert record.size_bytes == (output / record.path).stat().st_size
    again = VideoJob.model_validate_json(record.specification)
    assert again.specification_hash == record.specification_hash
    assert "torch" in json.loads(record.versions)
    assert min(record.denoise_s, record.forward_s, record.decode_s, record.total_s) > 0


def test_length_whose_latents_are_even_is_rendered_exactly(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    """37 frames are 10 latents, which CogVideoX would decode to 40: 11 are denoised, 4 dropped."""
    record = render(pipeline=str(tiny_pipeline), num_frames=37, steps=1, output=str(tmp_path))
    assert (record.num_frames, num_frames(tmp_path / record.path)) == (37, 37)


def test_same_job_gives_the_same_file(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    videos = []
    for workers in (1, 2):
        output = tmp_path / str(workers)
        record = render(pipeline=str(tiny_pipeline), workers=workers, output=str(output))
        videos.append((output / record.path).read_bytes())
    assert videos[0] == videos[1]


def test_a_video_that_fails_is_a_row_and_the_others_are_rendered(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    spec = load_pipeline(str(tiny_pipeline))
    broken = load_pipeline(str(tiny_pipeline), [("model.path", "/nowhere")])
    jobs = (
        VideoJob(prompt="a blue box", pipeline=broken),
        VideoJob(prompt="a red ball", pipeline=spec),
    )
    output = Output(str(tmp_path / "out"))
    output.prepare()
    renderer = Renderer(spec, output.location, num_videos=len(jobs))
    records = {record.prompt: record for record in renderer.records(Listed.of(*jobs))}
    renderer.close()
    assert records["a red ball"].status == "done"
    assert records["a blue box"].status == "failed"
    assert "/nowhere has no model_index.json" in records["a blue box"].error
    _, _, log = records["a blue box"].log.partition(":")
    lines = Path(log).read_text().splitlines()
    name = records["a blue box"].name
    (line,) = [line for line in lines if f" error video={name} step=0 attempt=1: " in line]
    assert line.endswith("denoising failed")
    # Indented, so that no text of a model or a row passes for a line of the log.
    assert lines[lines.index(line) + 1] == "  Traceback (most recent call last):"


def test_python_front_door_raises_where_the_video_fails_and_keeps_its_row(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = lambda self, source: iter([failed_record(job_of(*source.listed))])  # noqa: E731
    monkeypatch.setattr(Renderer, "records", failed)
    with pytest.raises(RenderError, match="a-red-ball: step 3, windows"):
        render(pipeline=str(tiny_pipeline), output=str(tmp_path))
    assert [row.status for row in manifest.read(Output(str(tmp_path)))] == ["failed"]


def failed_record(job: VideoJob) -> manifest.VideoRecord:
    return manifest.VideoRecord(
        id="1",
        name="a-red-ball",
        prompt=job.prompt,
        seed=job.seed,
        specification_hash=job.specification_hash,
        specification="{}",
        status="failed",
        error="step 3, windows [1]",
    )


def test_command_line_uses_the_running_cluster(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    address = ray.get_runtime_context().gcs_address
    done = subprocess.run(
        [
            *(sys.executable, "-m", "glc_ray.render", "--pipeline", str(tiny_pipeline)),
            *("--address", address, "--output", "out", "--prompt", "a zebra"),
        ],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("33 frames of 24x16 in ")
    (video,) = (tmp_path / "out" / "videos").iterdir()
    assert f"video          {video}\n" in done.stdout
    (page,) = (tmp_path / "out" / "report").glob("*.html")
    assert f"report         {page}\n" in done.stdout
    lines = done.stderr.splitlines()
    assert lines[0].startswith("warning: tiny does not know 'zebra'. The words that it knows: ")
    assert lines[-1] == f"{video.stem}: done"
    assert all(line.startswith((video.stem, "warning: ")) for line in lines), done.stderr
