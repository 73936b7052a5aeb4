"""Which worker computes what: assignment by pull, affinity, retry, fencing. Pure Python.

A task is one batch of windows of the current step, named by its position. A worker that is idle
asks for one; an answer counts only if it comes from the attempt that owns the task now, so a late
answer of a worker given up for dead is dropped.

Tasks of one *group* share something that a worker has to compute once before its first of them: the
keys and values of their anchor. So a worker stays with its group while the group has tasks, and
workers spread over groups.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Assignment:
    """The right to answer one task, once."""

    task: int
    attempt: int
    worker: Hashable


class TaskFailedError(RuntimeError):
    """A task failed as often as it may."""

    def __init__(self, task: int, reasons: list[str]) -> None:
        super().__init__(f"failed {len(reasons)} times: {reasons[-1]}")
        self.task = task
        self.reasons = reasons


class Dispatch:
    """The tasks of one step, from waiting through assigned to done.

    Args:
        groups: the group of each task 0, 1, ...; within a group tasks are handed out in this order.
        max_failures: failures of one task after which the step fails. Losing the worker counts:
            a window that kills its worker would kill every worker in turn.
    """

    def __init__(self, groups: Sequence[Hashable], *, max_failures: int = 3) -> None:
        self._groups = tuple(groups)
        self._waiting: dict[Hashable, list[int]] = {}
        for task, group in enumerate(groups):
            self._waiting.setdefault(group, []).append(task)
        self._held: dict[Hashable, Hashable] = {}
        """The group whose anchor each worker has."""
        self._owner: dict[int, Assignment] = {}
        self._reasons: dict[int, list[str]] = {}
        self._attempts = 0
        self._max_failures = max_failures

    @property
    def num_waiting(self) -> int:
        """Tasks that no worker has."""
        return sum(map(len, self._waiting.values()))

    def assign(self, worker: Hashable) -> Assignment | None:
        """Give ``worker`` the first waiting task of the group that suits it; None if none waits."""
        groups = [group for group, tasks in self._waiting.items() if tasks]
        if not groups:
            return None
        group = max(groups, key=lambda group: self._suits(worker, group))
        task = heapq.heappop(self._waiting[group])
        self._held[worker] = group
        self._attempts += 1
        self._owner[task] = Assignment(task, self._attempts, worker)
        return self._owner[task]

    def _suits(self, worker: Hashable, group: Hashable) -> tuple[bool, bool, float]:
        """Its own group first, then one that nobody has begun, then the one most behind."""
        workers = sum(held == group for held in self._held.values())
        is_own = self._held.get(worker) == group
        return is_own, workers == 0, len(self._waiting[group]) / max(1, workers)

    def complete(self, assignment: Assignment) -> bool:
        """Take an answer. False: the task has another owner or is done; drop the answer."""
        if self._owner.get(assignment.task) != assignment:
            return False
        del self._owner[assignment.task]
        return True

    def fail(self, assignment: Assignment, reason: str) -> bool:
        """Take a failure and let the task wait again. False: the task has another owner.

        The worker counts as new from now on: what it held is lost.

        Raises:
            TaskFailedError: the task has failed ``max_failures`` times.
        """
        if self._owner.get(assignment.task) != assignment:
            return False
        del self._owner[assignment.task]
        self._held.pop(assignment.worker, None)
        reasons = self._reasons.setdefault(assignment.task, [])
        reasons.append(reason)
        if len(reasons) >= self._max_failures:
            raise TaskFailedError(assignment.task, reasons)
        heapq.heappush(self._waiting[self._groups[assignment.task]], assignment.task)
        return True
