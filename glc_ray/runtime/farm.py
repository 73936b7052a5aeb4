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
    previewer: Any = None
    """None where no previews are asked for."""


class _Pool(Pool):
    """As an actor, which knows whether it is its first process."""

    def __init__(self, resources: DenoiserResources, telemetry: Telemetry) -> None:
        super().__init__(resources, telemetry, was_lost=_was_lost())


class _Board(Board):
    """As an actor, which knows whether it is its first process."""

    def __init__(self) -> None:
        super().__init__(was_lost=_was_lost())


def start_farm(
    output: str,
    workers: Sequence[Any],
    resources: DenoiserResources,
    *,
    telemetry: Telemetry | None = None,
) -> Farm:
    """Start what coordinators need beside ``workers``, on the node of this process.

    Pool and board are started anew where they die, and know nothing then. What they are to know
    comes by calls: Ray prints an error for an actor that is started anew with handles among its
    constructor's arguments.
    """
    counted = telemetry or Telemetry()
    pool = beside_me(_Pool, max_restarts=-1).remote(resources, counted)
    pool.enrol.remote(workers)
    # Whoever asks or tells the board waits until it is there again.
    board = beside_me(_Board, max_restarts=-1, max_task_retries=-1).remote()
    return Farm(output=output, workers=tuple(workers), pool=pool, board=board, telemetry=counted)


def beside_me(actor: type, **options: Any) -> Any:
    """An actor class that takes no room and runs on the node of this process: where that is lost,
    the run ends anyway."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    # Their many small messages are no tasks that anybody looks for in Ray's list of tasks.
    quiet: dict[str, Any] = {"enable_task_events": False, **options}
    return ray.remote(actor).options(num_cpus=0, scheduling_strategy=here, **quiet)


def _was_lost() -> bool:
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)
