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


ROLES = ResourcesSpec.model_validate(
    {
        "denoisers": {"count": 2, "num_gpus": 1, "custom": {"denoiser": 1}},
        "coordinators": {"count": 2, "num_cpus": 8, "custom": {"coordinator": 1}},
        "decoders": {"count": 1, "num_gpus": 1, "custom": {"decoder": 0.5}},
    }
)


@pytest.mark.parametrize(
    ("roles", "missing"),
    [
        ([(16, 0, "coordinator", 2), (8, 2, "denoiser", 2), (8, 1, "decoder", 1)], ""),
        # Two places for coordinators, and CPUs for one.
        (
            [(8, 0, "coordinator", 2), (8, 2, "denoiser", 2), (8, 1, "decoder", 1)],
            "1 of 2 coordinators of 8 CPU, 0 GPU and 1 coordinator",
        ),
        # A GPU is free, but its node is not for decoders.
        (
            [(16, 0, "coordinator", 2), (8, 3, "denoiser", 2)],
            "1 of 1 decoders of 0 CPU, 1 GPU and 0.5 decoder",
        ),
        (
            [(16, 0, "coordinator", 2), (8, 2, "denoiser", 1), (8, 1, "decoder", 1)],
            "1 of 2 denoisers of 1 CPU, 1 GPU and 1 denoiser",
        ),
    ],
)
def test_custom_resources_keep_actors_on_their_nodes(
    roles: list[tuple[int, int, str, float]], missing: str
) -> None:
    free = [_Node(cpus, [1.0] * gpus, {role: amount}) for cpus, gpus, role, amount in roles]
    assert _unplaced(_needs(ROLES), free) == missing


def test_what_takes_any_node_leaves_room_for_what_does_not() -> None:
    resources = ResourcesSpec.model_validate(
        {
            "denoisers": {"num_gpus": 1},
            "decoders": {"num_gpus": 1, "custom": {"decoder": 1}},
        }
    )
    free = [_Node(4, [1.0], {"decoder": 1}), _Node(4, [1.0])]
    assert _unplaced(_needs(resources), free) == ""


def test_nodes_are_described_by_what_was_asked_of_them() -> None:
    node = _Node(4, [1.0], {"memory": 1e9, "decoder": 1.0})
    assert node.words(["denoiser", "decoder"]) == "4 CPU, 1 GPU, 1 decoder"


def test_decoders_and_coordinators_take_no_cpu_unless_told() -> None:
    resources = ResourcesSpec.model_validate({"decoders": {"count": 2}})
    assert _unplaced(_needs(resources), [_Node(1, [])]) == ""
