"""What actors count, without a cluster: a recorder that remembers, and the rules of the binding."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from glc_ray import telemetry
from glc_ray.config import VideoJob
from glc_ray.core import vmcr
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import StepResult
from glc_ray.runtime.board import Board
from glc_ray.runtime.metrics import RayRecorder, Silent, Telemetry
from glc_ray.runtime.step_metrics import StepMetrics
from glc_ray.sampler import LocalDenoiser, StepReport, sample_job, torch_threads
from glc_ray.store.run_status import VideoProgress
from glc_ray.telemetry import Metric


class Remembering:
    """A recorder whose values can be looked at."""

    def __init__(self) -> None:
        self.counts: Counter[Any] = Counter()
        self.values: dict[Any, float] = {}

    def add(self, metric: Metric, amount: float = 1.0, **labels: str) -> None:
        metric.check({"output": "", **labels})
        self.counts[(metric.name, *labels.values())] += amount

    def set(self, metric: Metric, value: float, **labels: str) -> None:
        metric.check({"output": "", **labels})
        self.values[(metric.name, *labels.values())] = value

    observe = set

    def begin(self, metric: Metric, **labels: str) -> None:
        self.add(metric, 0, **labels)


@pytest.fixture
def job() -> VideoJob:
    return VideoJob(prompt="a red ball", pipeline=load_pipeline("toyworld"))


def test_steps_and_their_parts(job: VideoJob) -> None:
    recorder = Remembering()
    steps = StepMetrics(recorder, job, 2)
    for _ in range(3):
        steps.step(StepReport(0, 3, 999, 18, denoise_s=4.0, fuse_s=0.5, update_s=0.25))
        steps.checkpoints(write_s=1.5, written_bytes=700)
    assert recorder.counts["glc_steps", "2"] == 3
    spent = {part: recorder.counts["glc_step_seconds", "2", part] for part in ("denoise", "fuse")}
    assert spent == {"denoise": 12.0, "fuse": 1.5}
    assert recorder.counts["glc_step_seconds", "2", "refine"] == 0.75
    assert recorder.counts["glc_step_seconds", "2", "checkpoint"] == 1.5
    assert recorder.counts["glc_moved_bytes", "checkpoints"] == 700


@pytest.mark.parametrize("signal_scale", [0.3, 1.0])
def test_motion_loss_is_that_of_the_clean_latents_before_and_after(
    job: VideoJob, signal_scale: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    x0, prev = torch.randn(2, 1, 9, 4, 6, 8, generator=generator)
    step_size = 2e-3
    refined = vmcr.correct(prev, x0, signal_scale, step_size=step_size)
    recorder = Remembering()
    steps = StepMetrics(recorder, job, 0)
    steps.refined(StepResult(prev, x0, signal_scale), refined)
    assert steps._measuring is not None
    steps._measuring.result()
    after = x0 - step_size * vmcr.gradient(x0)
    for when, sample in (("before", x0), ("after", after)):
        expected = vmcr.loss(sample).item() / 7
        assert recorder.values["glc_motion_loss", "0", when] == pytest.approx(expected, rel=1e-4)
    assert vmcr.loss(after) < vmcr.loss(x0)


def test_motion_loss_of_a_large_video_is_that_of_a_sample(
    job: VideoJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def loss(sample: Tensor, weights: vmcr.VMCRWeights) -> Tensor:
        seen.append(tuple(sample.shape))
        return torch.zeros(())

    monkeypatch.setattr("glc_ray.runtime.step_metrics.loss", loss)
    large = torch.zeros(1, 40, 16, 60, 90)
    steps = StepMetrics(Remembering(), job, 0)
    steps.refined(StepResult(large, large, 1.0), large)
    assert steps._measuring is not None
    steps._measuring.result()
    assert seen == [(1, 12, 16, 60, 90)] * 2


def test_what_is_measured_changes_no_bit(tiny_pipeline: Path) -> None:
    job = VideoJob(prompt="a red ball", seed=3, pipeline=load_pipeline(str(tiny_pipeline)))
    recorder = Remembering()
    with torch_threads(1):
        denoiser = LocalDenoiser.of(job, torch.device("cpu"))
        plain = sample_job(job, denoiser)
        steps = StepMetrics(recorder, job, 0)
        watched = sample_job(
            job,
            denoiser,
            on_step=lambda report, latents: steps.step(report),
            on_update=steps.refined,
        )
    assert torch.equal(plain, watched)
    assert steps._measuring is not None
    steps._measuring.result()
    assert recorder.counts["glc_steps", "0"] == 3
    assert recorder.values["glc_motion_loss", "0", "after"] > 0


def test_what_is_off_measures_nothing(job: VideoJob) -> None:
    recorder = Telemetry("/out", is_on=False).recorder()
    assert isinstance(recorder, Silent)
    steps = StepMetrics(recorder, job, 0)
    latents = torch.zeros(1, 9, 4, 6, 8)
    steps.refined(StepResult(latents, latents, 1.0), latents)
    assert steps._measuring is None


def test_the_binding_refuses_what_is_not_declared() -> None:
    recorder = RayRecorder("/out")
    with pytest.raises(ValueError, match="path is one of"):
        recorder.add(telemetry.WINDOWS, path="window-3")
    with pytest.raises(ValueError, match="has the labels"):
        recorder.set(telemetry.QUEUE_DEPTH, 1.0, video="red-ball")


def test_slots_are_the_smallest_that_are_free() -> None:
    board = Board()
    assert [board.begin(key, key) for key in "abc"] == [0, 1, 2]
    assert board.begin("b", "b") == 1, "its coordinator died, and another goes on"
    board.decoded("a", "a", 5, 145)
    assert board.begin("d", "d") == 0, "what is being decoded has none"
    board.report("c", VideoProgress("c", "failed"))
    assert board.begin("e", "e") == 2
    assert {video.name: video.slot for video in board.in_work()} == {
        "a": None,
        "b": 1,
        "d": 0,
        "e": 2,
    }
