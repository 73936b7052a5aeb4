"""Which worker computes what: pull, priority, fair shares, affinity, retry, fencing. Pure Python.

A task is one batch of windows of a video's current step, named by its position there. Workers pull:
one that has room is given the task that suits it best, so that nobody idles while a task waits,
however many workers there are, whatever their speeds, and whoever comes and goes. An answer counts
only if it comes from the attempt that owns the task now, so a late answer of a worker given up for
dead is dropped.

Tasks of one *group* share something that a worker has to compute once before its first of them: the
keys and values of their anchor. So a worker stays with its group while the group has tasks, and
workers spread over groups. Among videos of one priority whoever was served least goes first; since
a worker stays with its group, shares are fair from step to step, not from task to task.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import TypeAlias

from glc_ray.runtime.turns import Assignment, Turns, VideoTasks

_ROOM = 2
"""Tasks that a worker may have: one that it computes, one that is on its way meanwhile."""

_Anchor: TypeAlias = tuple[Hashable, int, Hashable]
"""Video, step of the video, group."""


class TaskFailedError(RuntimeError):
    """A task failed as often as it may."""

    def __init__(self, video: Hashable, task: int, reasons: list[str]) -> None:
        super().__init__(f"failed {len(reasons)} times: {reasons[-1]}")
        self.video = video
        self.task = task
        self.reasons = reasons


class Dispatch:
    """The tasks of all videos in flight, from waiting through assigned to done.

    Args:
        max_failures: failures of one task after which it has failed. Losing the worker counts: a
            window that kills its worker would kill every worker in turn.
    """

    def __init__(self, *, max_failures: int = 3) -> None:
        self._videos: dict[Hashable, VideoTasks] = {}
        self._turns = Turns()
        self._opened = 0
        self._has: dict[Hashable, list[Assignment]] = {}
        """What each worker was given and has not answered; it computes the first."""
        self._with: tuple[dict[Hashable, None], ...] = tuple({} for _ in range(_ROOM))
        """The workers that have 0, 1, ... tasks and room for one more, longest so first."""
        self._num_waiting = 0
        self._held: dict[Hashable, _Anchor] = {}
        """Which anchor each worker has."""
        self._holders: Counter[_Anchor] = Counter()
        self._home: Hashable | None = None
        """The worker that does sticky tasks."""
        self._attempts = 0
        self._max_failures = max_failures

    # Workers

    @property
    def workers(self) -> tuple[Hashable, ...]:
        """Those that take part."""
        return tuple(self._has)

    def join(self, worker: Hashable) -> None:
        """A worker takes part from now on; it holds nothing."""
        if worker not in self._has:
            self._has[worker] = []
            self._with[0][worker] = None

    def leave(self, worker: Hashable, *, is_asked: bool = False) -> None:
        """A worker takes part no more; its tasks wait again, and nothing is held against them.

        ``is_asked``: it is asked for a sign of life only; what it has loaded for sticky tasks is
        believed to be there still.
        """
        held = self._has.pop(worker, [])
        if len(held) < _ROOM:
            self._with[len(held)].pop(worker, None)
        for assignment in held:
            self._wait_again(assignment)
        self._hold(worker, None)
        if self._home == worker and not is_asked:
            self._home = None

    def assignments(self, worker: Hashable) -> tuple[Assignment, ...]:
        """What a worker was given and has not answered; it computes the first."""
        return tuple(self._has.get(worker, ()))

    # Videos

    def open(self, video: Hashable, *, priority: int = 0) -> None:
        """A video takes part from now on; it has no tasks yet. A higher priority goes first."""
        peers = [other.served for other in self._videos.values() if other.priority == priority]
        self._opened += 1
        self._videos[video] = VideoTasks(
            video, priority, self._opened, served=min(peers, default=0)
        )

    def close(self, video: Hashable) -> tuple[Hashable, ...]:
        """A video takes part no more; returns the workers that still compute for it, who leave."""
        if video not in self._videos:
            return ()
        busy = self._release(video)
        state = self._videos.pop(video)
        self._num_waiting -= state.num_waiting
        state.waiting = {}
        return busy

    def submit(
        self, video: Hashable, groups: Sequence[Hashable], *, sticky: bool = False
    ) -> tuple[Hashable, ...]:
        """The tasks 0, 1, ... of a video's next step, by their groups; the last step is over.

        Args:
            video: an open one.
            groups: within a group tasks are handed out in this order.
            sticky: one worker does all tasks of this kind, of all videos, while it takes part: it
                has loaded what others have not.

        Returns:
            Workers that still compute for the last step (for a task that was answered by an attempt
            given up for dead), who leave.
        """
        busy = self._release(video)
        state = self._videos[video]
        self._num_waiting += len(groups) - state.num_waiting
        state.groups, state.waiting, state.reasons = tuple(groups), {}, {}
        state.step += 1
        state.sticky = sticky
        for task in range(len(groups)):
            state.wait(task)
        self._turns.add(state)
        return busy

    def is_open(self, video: Hashable) -> bool:
        """Whether a video takes part."""
        return video in self._videos

    @property
    def num_waiting(self) -> int:
        """Tasks that no worker has."""
        return self._num_waiting

    @property
    def num_grants(self) -> int:
        """How often a task was given out."""
        return self._attempts

    # Tasks

    def grants(self) -> list[Assignment]:
        """All that can be given out now.

        A second task is on its way to a worker that computes only while more wait than there are
        workers: near the end of a step each goes to whoever is idle first.
        """
        granted: list[Assignment] = []
        for num_tasks, workers in enumerate(self._with):
            few = len(self._has) if num_tasks else 0
            for worker in tuple(workers) if self._num_waiting > few else ():
                if self._num_waiting <= few:
                    break
                assignment = self.assign(worker)
                if assignment is not None:
                    granted.append(assignment)
        return granted

    def assign(self, worker: Hashable) -> Assignment | None:
        """Give ``worker`` the waiting task that suits it best; None if none waits for it, or it has
        no room."""
        if len(self._has[worker]) == _ROOM:
            return None
        chosen = self._choose(worker)
        if chosen is None:
            return None
        video, group = chosen
        state = self._videos[video]
        task = state.take(group)
        self._hold(worker, (video, state.step, group))
        if state.sticky:
            self._home = worker
        state.served += 1
        self._turns.add(state)
        self._attempts += 1
        assignment = Assignment(video, state.step, task, self._attempts, worker)
        state.owner[task] = assignment
        self._num_waiting -= 1
        self._change(worker, [*self._has[worker], assignment])
        return assignment

    def complete(self, assignment: Assignment) -> bool:
        """Take an answer. False: the task has another owner or is done; drop the answer."""
        if not self._owns(assignment):
            return False
        del self._videos[assignment.video].owner[assignment.task]
        held = self._has[assignment.worker]
        self._change(assignment.worker, [other for other in held if other != assignment])
        return True

    def fail(
        self, assignment: Assignment, reason: str, *, is_lost: bool = False, counts: bool = True
    ) -> bool:
        """Take a failure and let the task wait again. False: the task has another owner.

        The worker leaves: it is lost or sick, and joins when it is well.

        Args:
            assignment: what was not answered.
            reason: why.
            is_lost: the worker is gone, with all that it had: the failure is held against the task
                that it was computing, and against no other.
            counts: False where it is no task's fault.

        Raises:
            TaskFailedError: a task has failed as often as it may.
        """
        if not self._owns(assignment):
            return False
        guilty = self._has[assignment.worker][0] if is_lost else assignment
        self.leave(assignment.worker)
        if not counts:
            return True
        reasons = self._videos[guilty.video].reasons.setdefault(guilty.task, [])
        reasons.append(reason)
        if len(reasons) >= self._max_failures:
            # Nothing of its step is given out any more: nobody would fetch the answer.
            state = self._videos[guilty.video]
            self._num_waiting -= state.num_waiting
            state.waiting = {}
            raise TaskFailedError(guilty.video, guilty.task, reasons)
        return True

    def _owns(self, assignment: Assignment) -> bool:
        video = self._videos.get(assignment.video)
        return video is not None and video.owner.get(assignment.task) == assignment

    def _release(self, video: Hashable) -> tuple[Hashable, ...]:
        busy = dict.fromkeys(owner.worker for owner in self._videos[video].owner.values())
        for worker in busy:
            self.leave(worker)
        return tuple(busy)

    def _change(self, worker: Hashable, held: list[Assignment]) -> None:
        """What a worker has from now on."""
        before = len(self._has[worker])
        if before < _ROOM:
            del self._with[before][worker]
        if len(held) < _ROOM:
            self._with[len(held)][worker] = None
        self._has[worker] = held

    def _wait_again(self, assignment: Assignment) -> None:
        state = self._videos[assignment.video]
        del state.owner[assignment.task]
        state.wait(assignment.task)
        self._turns.add(state)
        self._num_waiting += 1

    def _choose(self, worker: Hashable) -> tuple[Hashable, Hashable] | None:
        """(video, group) of the task that suits a worker best."""
        away = self._home is not None and self._home != worker
        due = self._turns.first(away=away)
        if due is None:
            return None
        video, step, group = self._held.get(worker, (None, 0, None))
        own = self._videos.get(video)
        is_able = own is not None and not (own.sticky and away) and group in own.waiting
        if own is not None and is_able and (own.priority, own.step) == (due.priority, step):
            return video, group
        return due.name, max(due.waiting, key=lambda group: self._need(due.name, due, group))

    def _need(self, key: Hashable, video: VideoTasks, group: Hashable) -> tuple[bool, float]:
        """A group that nobody has begun first, then the one most behind."""
        workers = self._holders[key, video.step, group]
        return workers == 0, len(video.waiting[group]) / max(1, workers)

    def _hold(self, worker: Hashable, held: _Anchor | None) -> None:
        before = self._held.pop(worker, None)
        if before is not None:
            self._holders[before] -= 1
            if not self._holders[before]:
                del self._holders[before]
        if held is not None:
            self._held[worker] = held
            self._holders[held] += 1
