"""A catalog that is stopped, gone on with, and found done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch

from glc_ray.catalog import CatalogJobs
from glc_ray.config import VideoJob
from glc_ray.options import asked_for
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError
from glc_ray.render_catalog import render_catalog
from glc_ray.runtime.run import Group, Run
from glc_ray.sampler import LocalDenoiser, sample_job, torch_threads
from glc_ray.store import manifest, run_status
from glc_ray.store.latents import load_latents
from glc_ray.store.output import Output

STEPS = 120
ROWS = (
    {"prompt": "a red ball", "seed": 1, "name": "red"},
    {"promt": "a blue box"},
    {"prompt": "a blue box", "seed": 2, "num_frames": 37, "encode": {"crf": 30}},
)


@pytest.fixture
def catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.jsonl"
    path.write_text("\n".join(map(json.dumps, ROWS)))
    return path


def start(catalog: Path, pipeline: Path, output: Path) -> subprocess.Popen[str]:
    address = ray.get_runtime_context().gcs_address
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "glc_ray.render", "--catalog", str(catalog)),
            *("--pipeline", str(pipeline), "--steps", str(STEPS), "--output", str(output)),
            *("--keep-latents", "--address", address),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "200"},
        text=True,
    )


def wait_for_checkpoint(output: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 240
    while not list(output.glob(".work/*/checkpoints/*.safetensors")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def denoisers() -> set[psutil.Process]:
    """Of the cluster, which other tests use, too: one that was killed while it was being started
    anew may still be there."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "".join(process.cmdline()).startswith("ray::Denoiser"):
                found.add(process)
    return found


def kill_denoiser(output: Path, others: set[psutil.Process]) -> None:
    """Kill the run's, and wait until the run has seen it."""
    (denoiser,) = denoisers() - others
    denoiser.kill()
    deadline = time.monotonic() + 240
    place, seen_at = Output(str(output)), None
    # And has told of it, which is between two signs.
    while (status := run_status.read(place)) is None or seen_at in (None, status.updated_at):
        assert time.monotonic() < deadline
        if status is not None and status.workers.restarts and seen_at is None:
            seen_at = status.updated_at
        time.sleep(0.05)


def test_a_catalog_is_stopped_gone_on_with_and_found_done(
    ray_cluster: None, tiny_pipeline: Path, catalog: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    others = denoisers()
    first = start(catalog, tiny_pipeline, output)
    wait_for_checkpoint(output, first)
    with pytest.raises(UserError, match=r"another run .*process \d+"):
        render_catalog(str(catalog), pipeline=str(tiny_pipeline), output=str(output))
    kill_denoiser(output, others)
    first.send_signal(signal.SIGTERM)
    said, words = first.communicate(timeout=120)
    assert first.returncode == 3, words
    assert words.splitlines()[-1] == (
        "stopped by SIGTERM: what is finished is kept, and the same command goes on from there"
    )
    # Of a death a line of ours, and none of Ray's.
    warned = [line for line in words.splitlines() if line.startswith("warning: ")]
    assert len(warned) == 1, words
    assert warned[0].startswith("warning: denoiser 0 is lost (")
    assert warned[0].endswith("; it is started anew, and what it had waits for whoever is free")
    assert said == ""
    stored = list(output.glob(".work/*/checkpoints/*.safetensors"))
    assert stored
    status = run_status.read(Output(str(output)))
    assert status is not None
    assert status.state == "stopped"

    def again() -> tuple[int, int, int, int]:
        end = render_catalog(
            str(catalog),
            pipeline=str(tiny_pipeline),
            steps=STEPS,
            output=str(output),
            keep_latents=True,
        )
        return end.done, end.skipped, end.invalid, end.failed

    assert again() == (2, 0, 1, 0)
    place = Output(str(output))
    rows = {row.catalog_line: row for row in manifest.read(place)}
    assert {line: row.status for line, row in rows.items()} == {1: "done", 2: "invalid", 3: "done"}
    assert "unknown key 'promt'" in rows[2].error
    assert (rows[1].name, rows[3].num_frames) == ("red", 37)
    assert max(rows[1].resumed_at_step, rows[3].resumed_at_step) > 0
    for row in (rows[1], rows[3]):
        job = VideoJob.model_validate_json(row.specification)
        latents, _ = load_latents(place, f"latents/{row.name}.safetensors")
        with torch_threads(job.pipeline.fuse.threads):
            expected = sample_job(job, LocalDenoiser.of(job, torch.device("cpu")))
        assert np.array_equal(latents.numpy(), expected.numpy())
    assert not list(output.glob(".work/*/checkpoints"))
    assert again() == (0, 2, 1, 0)

    # Another video of a name, and the line that was wrong is gone.
    red = ROWS[0] | {"seed": 3, "steps": 1}
    catalog.write_text("\n".join(map(json.dumps, (red, ROWS[2]))))
    assert again() == (1, 1, 0, 0)
    now = manifest.read(place)
    assert {(row.name, row.seed, row.status) for row in now} == {
        ("red", 3, "done"),
        (rows[3].name, 2, "done"),
    }


def test_a_video_that_is_done_is_in_the_manifest_before_the_next_ends(
    ray_cluster: None, tiny_pipeline: Path, catalog: Path, tmp_path: Path
) -> None:
    """A driver that is killed then has not lost it: its work folder is gone already."""
    place = Output(str(tmp_path / "out"))
    place.prepare()
    asked = asked_for(None, steps=1)
    jobs = CatalogJobs(str(tiny_pipeline), asked)
    seen = []
    with Run(place) as run, run.connected(None, load_pipeline(str(tiny_pipeline), asked)):
        queue = run.fill(str(catalog), jobs, strict=False, force=False)
        groups = [Group(group.pipeline, group.source(place)) for group in queue.groups]
        for record in run.render(groups, None):
            others = manifest.read(Output(place.location))
            seen.append(record.id in {row.id for row in others})
    assert seen == [True, True]
