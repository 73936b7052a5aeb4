"""Decoders that cannot be loaded for a moment, in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from glc_ray.protocols import UserError
from glc_ray.runtime import decode_stage, loading, tile_pool
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.tile_pool import TileActor
from glc_ray.sampler import torch_threads
from glc_ray.store.output import Output
from tests.runtime.in_process import decode_stage_of, tiny_job, without_ray


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    without_ray(monkeypatch)
    monkeypatch.setattr(loading, "_PAUSES_S", (0.0, 0.0))
    # An actor sets them for its process, which here is that of other tests, too.
    with torch_threads(torch.get_num_threads()):
        yield


def stage(folder: Path, pipeline: Path) -> Any:
    place, job = Output(str(folder / "out")), tiny_job(pipeline)
    return decode_stage_of(place, job, FilePlans(job.pipeline))


def tile_actor(folder: Path, pipeline: Path) -> Any:
    return TileActor(tiny_job(pipeline).pipeline)


@pytest.mark.parametrize(("module", "start"), [(decode_stage, stage), (tile_pool, tile_actor)])
@pytest.mark.parametrize(
    ("errors", "raised"),
    [
        ((OSError("stale file handle"), torch.OutOfMemoryError("no room")), None),
        ((UserError("no such model"),), UserError),
        ((OSError("one"), OSError("two"), OSError("three")), OSError),
    ],
)
def test_what_may_pass_is_waited_for(
    tmp_path: Path,
    tiny_pipeline: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    start: Callable[[Path, Path], Any],
    errors: tuple[Exception, ...],
    raised: type[Exception] | None,
) -> None:
    load, left = module.load_frame_decoder, list(errors)

    def load_or_fail(*arguments: Any) -> Any:
        if left:
            raise left.pop(0)
        return load(*arguments)

    monkeypatch.setattr(module, "load_frame_decoder", load_or_fail)
    if raised is None:
        start(tmp_path, tiny_pipeline)
    else:
        with pytest.raises(raised, match=str(errors[-1])):
            start(tmp_path, tiny_pipeline)
    assert left == []
