"""The denoiser actor's class in this process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glc_ray.backbones import registry
from glc_ray.forwards import ForwardPlanner
from glc_ray.job import build_job
from glc_ray.methods import registry as methods
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import Conditioning, UserError
from glc_ray.runtime import denoiser as module
from glc_ray.runtime import loading
from glc_ray.runtime.denoiser import Denoiser
from glc_ray.runtime.messages import WindowBatch
from glc_ray.sampler import torch_threads


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On the CPU, whatever Ray would say, and without pauses."""
    monkeypatch.setattr(module, "assigned_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(loading, "_PAUSES_S", (0.0, 0.0))
    # An actor sets them for its process, which here is that of other tests, too.
    with torch_threads(torch.get_num_threads()):
        yield


def failing(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> list[Exception]:
    """Storage and devices that fail so often first; the errors that are left."""
    load, left = module.load_backbone, list(errors)

    def load_or_fail(*arguments: Any) -> Any:
        if left:
            raise left.pop(0)
        return load(*arguments)

    monkeypatch.setattr(module, "load_backbone", load_or_fail)
    return left


def test_a_model_that_cannot_be_loaded_for_a_moment_is_loaded(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = failing(monkeypatch, OSError("stale file handle"), torch.OutOfMemoryError("no room"))
    assert Denoiser(load_pipeline(str(tiny_pipeline))).ready()
    assert left == []


def test_what_does_not_pass_is_told_at_once(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = failing(monkeypatch, UserError("no such model"), OSError("is not asked"))
    with pytest.raises(UserError, match="no such model"):
        Denoiser(load_pipeline(str(tiny_pipeline)))
    assert len(left) == 1


def test_what_stays_is_told_after_a_while(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, *(OSError(f"try {number}") for number in range(3)))
    with pytest.raises(OSError, match="try 2"):
        Denoiser(load_pipeline(str(tiny_pipeline)))


def test_what_ray_shares_is_read_where_it_lies(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Read-only arrays, of which a copy of the prompts for each forward would be the most."""
    job = build_job(load_pipeline(str(tiny_pipeline)), None, 5)
    facts = registry.facts(job.pipeline.model)
    plan = methods.create(job, facts).plan(0, 999)
    (*_, forward) = ForwardPlanner(job, facts).forwards(replace(plan, paths=plan.paths[:1]))
    clips = np.random.default_rng(0).normal(size=(len(forward.windows), 3, 4, 4, 6))
    batch = WindowBatch(replace(forward, attention=None), clips.astype(np.float32))
    worker = Denoiser(job.pipeline)
    conditioning = worker.encode_prompts((job.prompt,), "")
    expected = worker.denoise(batch, conditioning).predictions_BFCHW
    taken: list[Conditioning] = []
    predict = worker.backbone.predict
    monkeypatch.setattr(
        worker.backbone, "predict", lambda *given: taken.append(given[2]) or predict(*given)
    )
    before = {name: array.copy() for name, array in conditioning.items()}
    for array in (batch.clips_BFCHW, *conditioning.values()):
        array.flags.writeable = False
    torch.set_warn_always(True)
    try:
        result = worker.denoise(batch, conditioning)
    finally:
        torch.set_warn_always(False)
    assert np.array_equal(result.predictions_BFCHW, expected)
    for name, tensor in taken[0].tensors.items():
        assert np.shares_memory(tensor.numpy(), conditioning[name])
        assert np.array_equal(conditioning[name], before[name])
    assert [str(warning.message) for warning in recwarn if "writable" in str(warning.message)] == []
