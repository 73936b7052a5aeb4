"""Decoders whose device fails, in this process, which then does not end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glc_ray.runtime import decode_stage, tile_pool
from glc_ray.runtime.decode_stage import DecodeEncodeStage
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.rows import Row, ledger_of
from glc_ray.runtime.sick_device import is_sick
from glc_ray.runtime.tile_pool import TileActor
from glc_ray.sampler import torch_threads
from glc_ray.store.output import Output
from tests.runtime.in_process import decode_stage_of, decoded, tiny_job, without_ray

SICK = RuntimeError("CUDA error: an illegal memory access was encountered")
if hasattr(torch, "AcceleratorError"):
    SICK = torch.AcceleratorError(str(SICK))


class _Ended(BaseException):
    """The process."""


@pytest.fixture(autouse=True)
def ending(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def end() -> None:
        raise _Ended

    without_ray(monkeypatch)
    for module in (decode_stage, tile_pool):
        monkeypatch.setattr(module, "end_process", end)
    # An actor sets them for its process, which here is that of other tests, too.
    with torch_threads(torch.get_num_threads()):
        yield


class _Failing:
    """Fails from the third temporal batch on, which is the first of the second segment."""

    def __init__(self, decoder: Any, error: Exception) -> None:
        self.facts, self.device = decoder.facts, decoder.device
        self._decoder, self._calls, self._error = decoder, 0, error

    def decode_tile(self, *arguments: Any) -> Any:
        self._calls += 1
        if self._calls > 2:
            raise self._error
        return self._decoder.decode_tile(*arguments)


class _Decoding:
    """A video, and stages one after another, as processes of an actor are."""

    def __init__(self, folder: Path, pipeline: Path) -> None:
        self.place, self.job = Output(str(folder / "out")), tiny_job(pipeline)
        self.plans = FilePlans(self.job.pipeline)
        self.first = self.stage()
        self.board = self.first._board

    def stage(self) -> DecodeEncodeStage:
        return decode_stage_of(self.place, self.job, self.plans)

    def sick(self, error: Exception) -> DecodeEncodeStage:
        stage = self.stage()
        stage._board, stage._decoder = self.board, _Failing(stage._decoder, error)
        return stage

    def row(self, stage: DecodeEncodeStage) -> Row:
        return decoded(stage, self.job, self.plans)

    def done(self) -> list[int]:
        return list(ledger_of(self.place, self.job).done())


@pytest.fixture
def decoding(tmp_path: Path, tiny_pipeline: Path) -> _Decoding:
    return _Decoding(tmp_path, tiny_pipeline)


def test_a_decoder_whose_device_failed_ends_and_another_goes_on(decoding: _Decoding) -> None:
    with pytest.raises(_Ended):
        decoding.row(decoding.sick(SICK))
    assert decoding.done() == [0]
    assert decoding.board.notices.remote() == [
        "video: the device of a decoder failed; the decoder is started anew, and goes on behind "
        "what is stored"
    ]
    assert decoding.row(decoding.first)["error"] == ""
    assert decoding.done() == [0, 1]


def test_a_video_that_devices_fail_by_fails_and_the_last_decoder_ends_with_the_next(
    decoding: _Decoding,
) -> None:
    for segment_was_done in range(2):
        stage = decoding.sick(SICK)
        stage._decoder._calls = 2 * segment_was_done
        with pytest.raises(_Ended):
            decoding.row(stage)
    stage = decoding.sick(SICK)
    stage._decoder._calls = 2
    row = decoding.row(stage)
    assert row["status"] == "failed"
    assert row["error"].startswith("decode and encode of frames 17 to 32: ")
    assert "CUDA error: an illegal memory access" in row["error"]
    with pytest.raises(_Ended):
        decoding.row(stage)


def test_a_decoder_stays_that_fails_otherwise(decoding: _Decoding) -> None:
    stage = decoding.sick(torch.OutOfMemoryError("no room"))
    assert "no room" in decoding.row(stage)["error"]
    stage._decoder._calls = -9
    assert decoding.row(stage)["error"] == ""


def test_a_tile_actor_ends_whose_device_failed(tiny_pipeline: Path) -> None:
    actor = TileActor(tiny_job(tiny_pipeline).pipeline)
    decoder = actor._worker._decoder
    tiles = {0: np.zeros((1, 3, 4, 4, 6), np.float32)}
    for error, raised in ((torch.OutOfMemoryError("no room"), RuntimeError), (SICK, _Ended)):
        failing = _Failing(decoder, error)
        failing._calls = 2
        actor._worker._decoder = failing
        with pytest.raises(raised):
            actor.decode_tiles(tiles, first=True)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (SICK, True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("shapes do not match"), False),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (ValueError("CUDA error"), False),
    ],
)
def test_which_errors_are_of_the_device(error: Exception, expected: bool) -> None:
    assert is_sick(error) is expected
