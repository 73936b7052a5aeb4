"""A plan's counts and bytes are those of the messages that real actors get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from glc_ray.config import PipelineSpec
from glc_ray.estimate.build import estimate
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.denoiser import Denoiser
from glc_ray.runtime.messages import Array, WindowBatch, WindowBatchResult
from tests.cluster.farm import farm_of, on_farm


class Counting(Denoiser):
    """A denoiser that adds up the bytes of its messages."""

    def __init__(self, pipeline: PipelineSpec) -> None:
        super().__init__(pipeline)
        self._clips_bytes = 0
        self._predictions_bytes = 0
        self._anchors_bytes: dict[tuple[str, int, str], int] = {}

    def denoise(
        self, batch: WindowBatch, conditioning: Any, anchor_BFCHW: Array | None = None
    ) -> WindowBatchResult:
        result = super().denoise(batch, conditioning, anchor_BFCHW)
        self._clips_bytes += batch.clips_BFCHW.nbytes
        self._predictions_bytes += result.predictions_BFCHW.nbytes
        if anchor_BFCHW is not None:
            # One object of the store for all batches of a path.
            self._anchors_bytes[batch.forward.anchor_key] = anchor_BFCHW.nbytes
        return result

    def counted(self) -> tuple[int, int, int]:
        return self._clips_bytes, self._predictions_bytes, sum(self._anchors_bytes.values())


@pytest.mark.parametrize("cache", ["device", "recompute"])
def test_counts_and_bytes_are_those_of_a_real_run(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path, cache: str
) -> None:
    """One worker, so that chance has no say in who computes which anchor."""
    job = build_job(load_pipeline(str(tiny_pipeline), [("glc.abam.cache", cache)]), None, 5)
    with farm_of(job, tmp_path, 1, Counting) as farm:
        _, timings = on_farm(farm, job)
        counted = ray.get(farm.workers[0].counted.remote())
    clips_bytes, predictions_bytes, anchors_bytes = counted
    plan = estimate(job)
    alone = plan.workers[0]
    assert (plan.forwards.windows.total, alone.anchor_forwards.total) == (
        timings.num_windows,
        timings.anchor_forwards,
    )
    assert plan.traffic.clips_bytes.total == clips_bytes
    assert plan.traffic.predictions_bytes.total == predictions_bytes
    assert plan.traffic.anchors_bytes.total == anchors_bytes
