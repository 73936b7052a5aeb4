"""The denoiser actor's class in this process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError
from glc_ray.runtime import denoiser as module
from glc_ray.runtime.denoiser import Denoiser
from glc_ray.sampler import torch_threads


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """On the CPU, whatever Ray would say, and without pauses."""
    monkeypatch.setattr(module, "assigned_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(module, "_LOAD_PAUSES_S", (0.0, 0.0))
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
