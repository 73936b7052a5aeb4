"""What the coordinators of a run share: the pool and its workers, the board, the output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from glc_ray.config import DenoiserResources
from glc_ray.runtime.board import Board
from glc_ray.runtime.metrics import Telemetry
from glc_ray.runtime.pool import Pool


@dataclass(frozen=True)
class Farm:
    """Handles of the actors of a run, all owned by whoever started them."""

    output: str
    """Where videos go."""
    workers: tuple[Any, ...]
    """Denoisers, by their names in the pool."""
    pool: Any
    board: Any
    telemetry: Telemetry = field(default_factory=Telemetry)
    """What they count for."""


def start_farm(
    output: str,
    workers: Sequence[Any],
    resources: DenoiserResources,
    *,
    telemetry: Telemetry | None = None,
) -> Farm:
    """Start what coordinators need beside ``workers``, on the node of this process."""
    counted = telemetry or Telemetry()
    return Farm(
        output=output,
        workers=tuple(workers),
        pool=beside_me(Pool).remote(workers, resources, counted),
        board=beside_me(Board).remote(),
        telemetry=counted,
    )


def beside_me(actor: type) -> Any:
    """An actor class that takes no room and runs on the node of this process: where that is lost,
    the run ends anyway."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(actor).options(num_cpus=0, scheduling_strategy=here)
