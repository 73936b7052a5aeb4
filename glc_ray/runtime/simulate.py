"""A step on N workers, simulated: the real rules of dispatch, with a clock that is made up.

Pure Python, so that a plan needs no cluster.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from glc_ray.runtime.dispatch import Dispatch
from glc_ray.runtime.turns import Assignment

_VIDEO = "video"


@dataclass(frozen=True)
class Task:
    """One batch of windows, as the workers' time sees it."""

    seconds: float
    """Of its own clips."""
    group: Hashable = None
    """What `Dispatch` is told of it."""
    anchor: Hashable = None
    """Whose keys and values its clips are blended with; None: nobody's."""
    anchor_s: float = 0.0
    """Of that anchor's forward, on a worker that does not hold it."""
    is_anchor: bool = False
    """The batch is that anchor itself, and whoever computes it holds it."""


@dataclass(frozen=True)
class SimulatedStep:
    """What one step takes."""

    makespan_s: float
    """From the first batch handed out to the last answer."""
    anchor_forwards: int
    """Forwards of anchors beyond their own windows'."""
    busy_share: float
    """Part of the workers' time in which they compute, 0..1; 1 where there is nothing to do."""


def simulate(
    tasks: Sequence[Task], num_workers: int, *, keeps_anchors: bool = True
) -> SimulatedStep:
    """Hand out the batches of one step to workers that are alike, as ``PoolDenoiser`` does.

    Every worker has one batch at a time and asks for the next when it has answered; transfers take
    no time. A worker holds the anchor of one path, like `glc_ray.backbones.guided.AnchorCache`,
    and none when the step begins.

    Args:
        tasks: in the order of the step's forwards.
        num_workers: 1 or more.
        keeps_anchors: False where the anchor rides along in every batch (``cache: recompute``).
    """
    dispatch = Dispatch()
    dispatch.open(_VIDEO)
    dispatch.submit(_VIDEO, [task.group for task in tasks])
    for worker in range(num_workers):
        dispatch.join(worker)
    held: dict[int, Hashable] = {}
    # (when it is idle, tie-break by who was given a batch first, worker, what it answers then)
    workers: list[tuple[float, int, int, Assignment | None]] = [
        (0.0, worker, worker, None) for worker in range(num_workers)
    ]
    makespan_s = busy_s = 0.0
    anchor_forwards = 0
    for turn in range(num_workers, num_workers + len(tasks)):
        now, _, worker, answered = heapq.heappop(workers)
        if answered is not None:
            dispatch.complete(answered)
        assignment = dispatch.assign(worker)
        assert assignment is not None, "as many turns as tasks"
        task = tasks[assignment.task]
        seconds = task.seconds
        holds = keeps_anchors and held.get(worker) == task.anchor
        if task.anchor is not None:
            held[worker] = task.anchor
            if not (task.is_anchor or holds):
                anchor_forwards += 1
                seconds += task.anchor_s
        busy_s += seconds
        makespan_s = max(makespan_s, now + seconds)
        heapq.heappush(workers, (now + seconds, turn, worker, assignment))
    return SimulatedStep(
        makespan_s=makespan_s,
        anchor_forwards=anchor_forwards,
        busy_share=busy_s / (makespan_s * num_workers) if makespan_s > 0 else 1.0,
    )
