"""Which clusters have room for a job's actors."""

from __future__ import annotations

import pytest

from glc_ray.config import ResourcesSpec
from glc_ray.runtime.cluster import _needs, _Node, _unplaced

RESOURCES = ResourcesSpec.model_validate(
    {
        "denoisers": {"count": 4, "num_cpus": 2, "num_gpus": 0.75},
        "coordinators": {"count": 1, "num_cpus": 4},
        "decoders": {"count": 1, "num_cpus": 1, "num_gpus": 0.25},
    }
)


@pytest.mark.parametrize(
    ("nodes", "missing"),
    [
        ([(16, 4)], ""),
        ([(9, 2), (8, 2)], ""),
        # Three GPUs have four times three quarters, but not on one device each.
        ([(16, 3)], "1 of 4 denoisers of 2 CPU and 0.75 GPU"),
        ([(12, 4)], "1 of 1 coordinators of 4 CPU and 0 GPU"),
        ([(3, 1)] * 4, "1 of 1 coordinators of 4 CPU and 0 GPU"),
        ([(4, 0), (5, 2), (4, 2)], ""),
        (
            [(16, 0)],
            "4 of 4 denoisers of 2 CPU and 0.75 GPU, 1 of 1 decoders of 1 CPU and 0.25 GPU",
        ),
    ],
)
def test_room(nodes: list[tuple[int, int]], missing: str) -> None:
    free = [_Node(cpus, [1.0] * gpus) for cpus, gpus in nodes]
    assert _unplaced(_needs(RESOURCES), free) == missing


def test_decoders_and_coordinators_take_no_cpu_unless_told() -> None:
    resources = ResourcesSpec.model_validate({"decoders": {"count": 2}})
    assert _unplaced(_needs(resources), [_Node(1, [])]) == ""
