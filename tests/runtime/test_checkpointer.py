"""What an attempt leaves for the next, and what cannot be gone on from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from glc_ray.backbones import registry as backbones
from glc_ray.config import VideoJob
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.checkpointer import Checkpointer
from glc_ray.runtime.messages import Timings
from glc_ray.sampler import Boundary
from glc_ray.store import checkpoint as checkpoints
from glc_ray.store.checkpoint import Checkpoint
from glc_ray.store.output import Output
from glc_ray.store.storage import StorageError

VIDEO = "0123456789abcdef"


@pytest.fixture
def job(tiny_pipeline: Path) -> VideoJob:
    # Written when they are asked for alone.
    options = [("resources.checkpoint.max_share", 0)]
    return build_job(load_pipeline(str(tiny_pipeline), options), "a red ball", 0)


@pytest.fixture
def place(tmp_path: Path) -> Output:
    output = Output(str(tmp_path / "out"))
    output.prepare()
    return output


def boundary_of(job: VideoJob, step_index: int) -> Boundary:
    pipeline = job.pipeline
    scheduler = backbones.load_scheduler(pipeline.model, pipeline.sampling, torch.Generator())
    shape = backbones.facts(pipeline.model).latents_shape(pipeline.video.num_frames)
    return Boundary(step_index, torch.zeros(shape), scheduler.state())


@contextmanager
def checkpointing(place: Output, job: VideoJob) -> Iterator[Checkpointer]:
    checkpointer = Checkpointer(place, VIDEO, job)
    try:
        yield checkpointer
    finally:
        checkpointer.close()


def stored_step(place: Output, job: VideoJob) -> int | None:
    found = checkpoints.load_latest(place, VIDEO, job.latents_hash)
    return found and found.step_index


def test_the_next_attempt_goes_on_from_the_last_step(place: Output, job: VideoJob) -> None:
    with checkpointing(place, job) as first:
        assert first.load() is None
        first.offer(boundary_of(job, 2), Timings(denoise_s=3.0))
        first.flush()
    with checkpointing(place, job) as second:
        found = second.load()
    assert found is not None
    assert (found[0].step_index, found[1].denoise_s) == (2, 3.0)


@pytest.mark.parametrize("damage", ["another default", "no scheduler", "another timing"])
def test_a_state_of_another_version_is_not_found_again_and_again(
    place: Output, job: VideoJob, damage: str
) -> None:
    """A new diffusers has a new key among its scheduler's settings, a new glc-ray another time."""
    with checkpointing(place, job) as first:
        first.offer(boundary_of(job, 2), Timings())
        first.flush()
    found = checkpoints.load_latest(place, VIDEO, job.latents_hash)
    assert found is not None
    values: dict[str, Any] = dict(found.values)
    if damage == "another default":
        values["scheduler"] = {
            key: value for key, value in values["scheduler"].items() if key != "clip_sample_range"
        }
        assert len(values["scheduler"]) < len(found.values["scheduler"])
    elif damage == "no scheduler":
        del values["scheduler"]
    else:
        values["timings"] = {"years": 1}
    checkpoints.delete(place, VIDEO)
    checkpoints.save(place, VIDEO, job.latents_hash, replace(found, values=values))
    with checkpointing(place, job) as second:
        assert second.load() is None
    assert stored_step(place, job) is None


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (StorageError("the disk is full"), "no checkpoint: the disk is full"),
        (SafetensorError("no memory"), "no checkpoint: SafetensorError: no memory"),
    ],
)
def test_what_could_not_be_stored_is_stored_when_it_is_asked_for_again(
    place: Output,
    job: VideoJob,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    told: str,
) -> None:
    def full(*_: object) -> None:
        raise error

    with checkpointing(place, job) as checkpointer:
        checkpointer.offer(boundary_of(job, 2), Timings())
        with monkeypatch.context() as patched:
            patched.setattr(checkpoints, "save", full)
            checkpointer.flush()
        assert caplog.messages == [told]
        assert stored_step(place, job) is None
        checkpointer.flush()
    assert stored_step(place, job) == 2


def test_the_thread_outlives_what_it_cannot_write(
    place: Output, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [("resources.checkpoint.max_share", 1)]
    job = build_job(load_pipeline(str(tiny_pipeline), options), "a red ball", 0)
    tried, save = threading.Semaphore(0), checkpoints.save

    def save_but_the_first(output: Output, video: str, hash: str, one: Checkpoint) -> None:
        tried.release()
        if one.step_index == 1:
            raise SafetensorError("no memory")
        save(output, video, hash, one)

    monkeypatch.setattr(checkpoints, "save", save_but_the_first)
    with checkpointing(place, job) as checkpointer:
        for step_index in (1, 2):
            # Nothing is offered to a writer that is busy.
            with checkpointer._writing:
                pass
            checkpointer.offer(boundary_of(job, step_index), Timings())
            assert tried.acquire(timeout=60)
    assert stored_step(place, job) == 2
