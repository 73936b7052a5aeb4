"""An estimate against closed forms and a walk over the steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from glc_ray.backbones import registry
from glc_ray.config import VideoJob
from glc_ray.estimate.build import estimate
from glc_ray.estimate.figures import Estimate, PerStep
from glc_ray.estimate.measure import measure
from glc_ray.estimate.work import Step, steps_of
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError
from glc_ray.sampler import gather_clips
from tests.tiny_wan import CLIP, TinyWan, tiny_wan  # noqa: F401

Tiny = Callable[[str], Path]


def job_of(*overrides: tuple[str, Any]) -> VideoJob:
    return build_job(load_pipeline("toyworld", overrides), "a red ball", 0)


def steps(job: VideoJob) -> tuple[Step, ...]:
    return steps_of(job, registry.facts(job.pipeline.model))


@pytest.fixture
def tiny_job(tiny_model: Tiny) -> Callable[..., VideoJob]:
    """33 frames: 9 latent frames in windows of 3."""

    def make(*overrides: tuple[str, Any], positions: str = "sincos") -> VideoJob:
        fixed = [("model.path", str(tiny_model(positions))), ("video.num_frames", 33)]
        return job_of(*fixed, ("sampling.num_steps", 4), *overrides)

    return make


def test_anchor_caches_by_placement() -> None:
    """6 layers x 2 x 2 branches x 7 x 4 x 6 video tokens x 256 wide x 4 bytes."""
    anchor_bytes = 6 * 2 * 2 * 7 * 4 * 6 * 256 * 4
    memory = estimate(job_of(("glc.abam.cache", "cpu"))).memory
    assert [
        (cache.placement, cache.is_chosen, cache.device_bytes, cache.cpu_bytes)
        for cache in memory.anchor_caches
    ] == [
        ("device", False, anchor_bytes, 0),
        ("cpu", True, 0, anchor_bytes),
        ("recompute", False, 0, 0),
    ]
    assert memory.latents_bytes == 37 * 16 * 8 * 12 * 4


@pytest.mark.parametrize("num_frames", [25, 145, 289])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_forwards_and_bytes_are_those_of_the_steps(num_frames: int, batch_size: int) -> None:
    """A walk over the clips that workers would be sent, as ``PoolDenoiser`` sends them."""
    fixed = [("video.num_frames", num_frames), ("sampling.num_steps", 8)]
    job = job_of(*fixed, ("denoise.batch_size", batch_size))
    facts = registry.facts(job.pipeline.model)
    latents = torch.zeros(facts.latents_shape(num_frames))
    windows, clips, anchors = [], [], []
    for step in steps(job):
        windows.append(sum(len(path.windows) for path in step.plan.paths))
        sent = [gather_clips(latents, f.windows).numpy().nbytes for f in step.forwards]
        shared = {
            f.path: gather_clips(latents, [f.anchor]).numpy().nbytes
            for f in step.forwards
            if f.anchor is not None and not f.is_anchor
        }
        clips.append(sum(sent))
        anchors.append(sum(shared.values()))
    result = estimate(job)
    assert result.forwards.windows == PerStep(min(windows), max(windows), sum(windows))
    assert result.traffic.clips_bytes == PerStep(min(clips), max(clips), sum(clips))
    assert result.traffic.predictions_bytes == result.traffic.clips_bytes
    assert result.traffic.anchors_bytes == PerStep(min(anchors), max(anchors), sum(anchors))
    assert result.forwards.flops == result.forwards.paths[0].flops_per_window * sum(windows)


def test_windows_of_glc_in_numbers() -> None:
    """K = 37 latent frames, L = 7: ⌈K/L⌉ = 6 global windows, local ones every 3 frames."""
    forwards = estimate(job_of()).forwards
    assert [path.path for path in forwards.paths] == ["global", "local"]
    assert forwards.paths[0].windows == PerStep(6, 6, 6 * 25)
    # Starts J, J + 3, ... below K - L = 30, with 0 and 30: 11 for J = 0, else 12.
    assert (forwards.paths[1].windows.least, forwards.paths[1].windows.most) == (11, 12)
    assert math.ceil(37 / 7) == 6


def test_stated_seconds() -> None:
    """One worker takes a second a window; the others no less than their share."""
    result = estimate(job_of(("resources.denoisers.count", 3)), seconds_per_window=1.0)
    alone = result.workers[0]
    assert [row.workers for row in result.workers] == [1, 2, 3, 4, 8]
    assert [row.workers for row in result.workers if row.is_chosen] == [3]
    assert alone.denoise_s == pytest.approx(result.forwards.windows.total)
    assert (alone.anchor_forwards.total, alone.busy_share) == (0, pytest.approx(1))
    for row in result.workers:
        work = result.forwards.windows.total + row.anchor_forwards.total
        assert row.denoise_s is not None
        assert row.denoise_s * row.workers * row.busy_share == pytest.approx(work)


def test_stated_seconds_of_a_long_clip_grow_with_its_operations(
    tiny_job: Callable[..., VideoJob],
) -> None:
    direct = estimate(tiny_job(("method", "direct")), seconds_per_window=1.0)
    (path,) = direct.forwards.paths
    assert path.clip_frames == 9
    native = estimate(tiny_job()).forwards.paths[0].flops_per_window
    assert direct.workers[0].denoise_s == pytest.approx(4 * path.flops_per_window / native)


def test_anchors_that_ride_along_are_in_every_batch_but_their_own() -> None:
    result = estimate(job_of(("glc.abam.cache", "recompute")), seconds_per_window=1.0)
    extra = result.forwards.batches.total - 2 * result.video.num_steps
    assert {row.anchor_forwards.total for row in result.workers} == {extra}
    assert result.workers[0].denoise_s == pytest.approx(result.forwards.windows.total + extra)
    assert [cache.device_bytes for cache in result.memory.anchor_caches if cache.is_chosen] == [0]


@pytest.mark.parametrize(
    "overrides",
    [[("glc.abam", False)], [("glc.abam.weight", 0.0)], [("method", "gen_l_video")]],
)
def test_without_anchors_there_is_nothing_to_keep(overrides: list[tuple[str, Any]]) -> None:
    result = estimate(job_of(*overrides))
    assert result.memory.anchor_caches == ()
    assert {row.anchor_forwards.total for row in result.workers} == {0}


@pytest.mark.parametrize(
    ("scheduler", "tensors"),
    [("CogVideoXDDIMScheduler", 1), ("CogVideoXDPMScheduler", 2), ("UniPCMultistepScheduler", 5)],
)
def test_checkpoint_has_the_latents_and_the_schedulers_history(
    scheduler: str, tensors: int
) -> None:
    memory = estimate(job_of(("sampling.scheduler", scheduler))).memory
    assert memory.checkpoint_bytes == tensors * memory.latents_bytes


@pytest.mark.parametrize("cache", ["device", "recompute"])
def test_measuring_times_every_kind_of_batch(tiny_job: Callable[..., VideoJob], cache: str) -> None:
    job = tiny_job(("denoise.batch_size", 2), ("glc.abam.cache", cache))
    planned = steps(job)
    told: list[tuple[int, int]] = []
    measurement = measure(job, planned, on_batch=lambda done, total: told.append((done, total)))
    forwards = [forward for step in planned for forward in step.forwards]
    kinds = {(f.path, len(f.windows), f.is_anchor) for f in forwards}
    timed = {(b.path, b.num_clips, b.is_anchor): b for b in measurement.batches}
    assert timed.keys() == kinds
    assert told == [(done + 1, len(kinds)) for done in range(len(kinds))]
    assert all(0 < b.fastest_s <= b.median_s <= b.slowest_s for b in timed.values())
    result = estimate(job, measurement=measurement)
    spent = sum(timed[f.path, len(f.windows), f.is_anchor].median_s for f in forwards)
    assert result.workers[0].denoise_s == pytest.approx(spent)
    assert result.workers[0].coordinator_s == pytest.approx(4 * measurement.coordinator_step_s)
    assert result.timing is not None
    assert result.timing.source == "measured"


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU answers")
def test_a_gpu_job_cannot_be_measured_without_one() -> None:
    job = job_of(("resources.denoisers.num_gpus", 0.5))
    with pytest.raises(UserError) as error:
        measure(job, steps(job))
    assert str(error.value) == (
        "--measure: toyworld denoises on GPUs (resources.denoisers.num_gpus = 0.5), and torch "
        f"{torch.__version__} finds none here; run it on a node that has one, or state the "
        "seconds of a window with --seconds-per-forward"
    )


IN_THE_LAST_STEP = "decode: begins in the last step, with the first frames that are final"
ALL_AT_ONCE = "decode: begins after the last step, in which all frames are final at once"


@pytest.mark.parametrize(
    ("overrides", "notes"),
    [
        ([], [IN_THE_LAST_STEP]),
        (
            [("sampling.scheduler", "CogVideoXDPMScheduler")],
            [IN_THE_LAST_STEP],
        ),
        (
            [
                ("sampling.scheduler", "CogVideoXDPMScheduler"),
                ("sampling.scheduler_options", {"set_alpha_to_one": False}),
            ],
            ["decode: begins after the last step, which ends at latents that hold noise"],
        ),
        ([("glc.local_path", False)], [ALL_AT_ONCE]),
        (
            [("method", "freenoise")],
            [
                "freenoise.level = auto: windows are averaged in the prediction, since the model "
                "cannot place windows within attention over a video this long",
                IN_THE_LAST_STEP,
            ],
        ),
        (
            [("method", "direct")],
            [
                "one forward spans 37 latent frames, 5.3 times the native window: it runs on one "
                "worker, and others do not shorten a step",
                ALL_AT_ONCE,
            ],
        ),
        (
            [("glc.abam.cache", "recompute")],
            [
                "glc.abam.cache = recompute: the anchor is one more clip in every batch but its "
                "own",
                IN_THE_LAST_STEP,
            ],
        ),
        (
            [("glc.abam.weight", 0.0)],
            ["glc.abam: the anchor has no share, so no keys and values are kept", IN_THE_LAST_STEP],
        ),
        (
            [("resources.decoders.count", 2), ("decode.parallel", "stretches")],
            [
                "decode: 1 stretch of time on as many decoders, as decode.parallel says: about "
                "1.0x one decoder",
                IN_THE_LAST_STEP,
            ],
        ),
    ],
)
def test_notes(overrides: list[tuple[str, Any]], notes: list[str]) -> None:
    result: Estimate = estimate(job_of(*overrides))
    assert list(result.notes) == notes


def test_freenoise_within_attention(tiny_job: Callable[..., VideoJob]) -> None:
    result = estimate(tiny_job(("method", "freenoise"), positions="rotary"))
    assert result.notes[0] == "freenoise.level = auto: windows are averaged within attention"


def test_a_lone_window_is_nobodys_anchor(tiny_job: Callable[..., VideoJob]) -> None:
    """At native length a worker computes one local window a step, and no anchor for it."""
    result = estimate(tiny_job(("video.num_frames", 9), ("glc.global_path", False)))
    assert result.forwards.windows.most == 1
    assert [row.anchor_forwards.total for row in result.workers] == [0] * len(result.workers)
    assert result.memory.anchor_caches == ()
