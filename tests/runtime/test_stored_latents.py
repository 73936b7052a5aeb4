"""Stored latents as a decoder reads them, each chunk of the file once, and what they took."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from glc_ray.runtime.messages import Timings
from glc_ray.runtime.rows import video_id
from glc_ray.runtime.stored_latents import StoredLatents, store_timings, stored_timings
from glc_ray.store import latents as store
from glc_ray.store.output import Output
from glc_ray.store.paths import timings_path
from tests.runtime.in_process import tiny_job

FRAMES = 100
FRAME_BYTES = 4 * 2 * 3 * 4

Read = Callable[[int, int], Tensor]


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path))


@pytest.fixture
def chunks(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each chunk was read, by its first frame."""
    counted: Counter[int] = Counter()
    read = store._LatentsFile.chunk

    def chunk(file: store._LatentsFile, start: int) -> Tensor:
        counted[start] += 1
        return read(file, start)

    monkeypatch.setattr(store._LatentsFile, "chunk", chunk)
    return counted


def stored(output: Output, monkeypatch: pytest.MonkeyPatch, chunk_frames: int) -> Tensor:
    monkeypatch.setattr(store, "_CHUNK_BYTES", chunk_frames * FRAME_BYTES)
    latents = torch.randn((1, FRAMES, 2, 3, 4), generator=torch.Generator().manual_seed(0))
    store.save_latents(output, "latents", latents, {})
    return latents


@pytest.mark.parametrize("chunk_frames", [1, 7, 24, 25, 99, 200])
@pytest.mark.parametrize("leading", [0, 1, 3])
def test_no_chunk_is_read_twice(
    output: Output,
    chunks: Counter[int],
    monkeypatch: pytest.MonkeyPatch,
    chunk_frames: int,
    leading: int,
) -> None:
    latents = stored(output, monkeypatch, chunk_frames)[:, leading:]
    reader = StoredLatents(output, "latents", leading=leading)
    assert reader.shape == tuple(latents.shape)
    # A stretch in the middle begins with its warm-up; the first batch may have one frame more.
    for start in (0, *range(3, FRAMES - leading, 2)):
        stop = min(start + (2 if start else 3), FRAMES - leading)
        read = reader[slice(None), slice(start, stop)]
        assert torch.equal(read, latents[:, start:stop])
    first = leading - leading % chunk_frames
    assert chunks == {start: 1 for start in range(first, FRAMES, chunk_frames)}


def test_frames_may_be_left_out_and_asked_for_again(
    output: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = stored(output, monkeypatch, 7)
    reader = StoredLatents(output, "latents", leading=0)
    for start, stop in ((50, 52), (51, 90), (96, 100), (8, 9), (7, 8), (0, 100)):
        read = reader[slice(None), slice(start, stop)]
        assert torch.equal(read, latents[:, start:stop])


def test_what_latents_took_is_kept(output: Output, tiny_pipeline: Path) -> None:
    output.prepare()
    job = tiny_job(tiny_pipeline)
    assert stored_timings(output, job) == Timings()
    took = Timings(denoise_s=2.5, num_windows=18, resumed_at_step=1)
    store_timings(output, job, took)
    assert stored_timings(output, job) == took


@pytest.mark.parametrize(
    "found",
    [
        *(b"", b"[]", b'{"denoise_s": "long"}', b'{"denoise_s": 1e999}'),
        *(b'{"denoise_s": "1e999"}', b'{"num_windows": "99999999999999999999"}'),
    ],
)
def test_what_cannot_be_read_of_it_counts_as_nothing(
    output: Output, tiny_pipeline: Path, found: bytes
) -> None:
    """The latents are there all the same."""
    output.prepare()
    job = tiny_job(tiny_pipeline)
    output.put_bytes(found, timings_path(video_id(job)))
    assert stored_timings(output, job) == Timings()
