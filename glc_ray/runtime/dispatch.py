"""Which worker computes what: assignment by pull, retry, fencing. Pure Python, no Ray, no tensors.

A task is one batch of windows of the current step, named by its position. A worker that is idle
asks for one; an answer counts only if it comes from the attempt that owns the task now, so a late
answer of a worker given up for dead is dropped.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable
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
        num_tasks: tasks 0 .. num_tasks - 1, handed out in this order.
        max_failures: failures of one task after which the step fails. Losing the worker counts:
            a window that kills its worker would kill every worker in turn.
    """

    def __init__(self, num_tasks: int, *, max_failures: int = 3) -> None:
        self._waiting = list(range(num_tasks))
        self._owner: dict[int, Assignment] = {}
        self._reasons: dict[int, list[str]] = {}
        self._attempts = 0
        self._unfinished = num_tasks
        self._max_failures = max_failures

    @property
    def is_done(self) -> bool:
        """Every task has an answer."""
        return self._unfinished == 0

    @property
    def num_waiting(self) -> int:
        """Tasks that no worker has."""
        return len(self._waiting)

    def assign(self, worker: Hashable) -> Assignment | None:
        """Give the first waiting task to ``worker``; None if nothing waits."""
        if not self._waiting:
            return None
        task = heapq.heappop(self._waiting)
        self._attempts += 1
        self._owner[task] = Assignment(task, self._attempts, worker)
        return self._owner[task]

    def complete(self, assignment: Assignment) -> bool:
        """Take an answer. False: the task has another owner or is done; drop the answer."""
        if self._owner.get(assignment.task) != assignment:
            return False
        del self._owner[assignment.task]
        self._unfinished -= 1
        return True

    def fail(self, assignment: Assignment, reason: str) -> bool:
        """Take a failure and let the task wait again. False: the task has another owner.

        Raises:
            TaskFailedError: the task has failed ``max_failures`` times.
        """
        if self._owner.get(assignment.task) != assignment:
            return False
        del self._owner[assignment.task]
        reasons = self._reasons.setdefault(assignment.task, [])
        reasons.append(reason)
        if len(reasons) >= self._max_failures:
            raise TaskFailedError(assignment.task, reasons)
        heapq.heappush(self._waiting, assignment.task)
        return True
