"""Stages of the graph in the test's own process, with a real board that needs no actor."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from glc_ray.backbones.registry import facts
from glc_ray.config import VideoJob
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime import arriving_latents, decode_stage, denoise_stage, tile_pool
from glc_ray.runtime.board import Board
from glc_ray.runtime.decode_stage import DecodeEncodeStage
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.messages import Timings
from glc_ray.runtime.metrics import Telemetry
from glc_ray.runtime.rows import Row, row_of, stretch_row, video_id
from glc_ray.store.latents import save_latents
from glc_ray.store.output import Output
from glc_ray.store.paths import work_latents_path


class Handle:
    """Stands for that of an actor: its methods are called at once."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._actor, name))


def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """What handles answer is there already, and the device is the CPU."""
    answered = SimpleNamespace(get=lambda answer: answer)
    for module in (decode_stage, denoise_stage, arriving_latents):
        monkeypatch.setattr(module, "ray", answered)
    for module in (decode_stage, tile_pool):
        monkeypatch.setattr(module, "assigned_device", lambda: torch.device("cpu"))
    # The test's process logs as pytest has it.
    monkeypatch.setattr(Telemetry, "log", lambda _: None)


def decode_stage_of(output: Output, job: VideoJob, plans: FilePlans) -> DecodeEncodeStage:
    """A stage that finds all latents stored."""
    pipeline = job.pipeline
    shape = facts(pipeline.model).latents_shape(pipeline.video.num_frames)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    metadata = {"job": job.model_dump_json(), "latents_hash": job.latents_hash}
    save_latents(output, work_latents_path(video_id(job)), latents, metadata)
    board = Board()
    board.complete(job.specification_hash, Timings())
    return DecodeEncodeStage(pipeline, output.location, Handle(board), plans, [])


def decoded(stage: DecodeEncodeStage, job: VideoJob, plans: FilePlans) -> Row:
    """The row of a video whose segments are all made by a stage."""
    segments = tuple(segment.index for segment in plans.of(job.pipeline).decode.segments)
    return stage({**stretch_row(row_of(job, "video"), segments=segments), "started": 0.0})


def tiny_job(pipeline: Path, **options: Any) -> VideoJob:
    """9 latents in two segments."""
    settings = {"decode.segment": 4, "resources.telemetry": False} | options
    return VideoJob(prompt="a red ball", pipeline=load_pipeline(str(pipeline), settings.items()))
