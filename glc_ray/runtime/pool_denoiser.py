"""The Denoiser that sends a video's windows to the workers that the pool grants it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError
from torch import Tensor

from glc_ray.forwards import ForwardPlanner
from glc_ray.protocols import Forward, StepPlan, Window
from glc_ray.runtime.errors import DenoiseError, reason
from glc_ray.runtime.forward_metrics import ForwardMetrics
from glc_ray.runtime.messages import Array, Failure, WindowBatch
from glc_ray.runtime.metrics import Recorder, Silent
from glc_ray.runtime.turns import Assignment
from glc_ray.sampler import gather_clips

OnWindows = Callable[[int, int], None]
"""Called with (windows done, windows in the step)."""

_LOG = logging.getLogger(__name__)
_MAX_LOSSES = 5
"""Of the pool in one step, before the video fails."""
_NOBODYS = 0
"""An attempt that no pool has counted: what is told of it has no effect."""

_SENT_ALONG_BYTES = 1 << 14
"""A reference costs each call that has it more CPU than so many bytes: the raylet is asked, and the
store read."""

_Send = Callable[[int, Any], Any]
"""Sends a task to a worker; the reference of the answer."""


class PoolDenoiser:
    """Computes the windows of one video on the pool; a ``Denoiser`` for the sampler.

    Args:
        pool: handle of the pool actor.
        workers: handles of its denoisers, by their names there.
        planner: of the video's job.
        priority: of the video among those that the pool works for.
        on_windows: is told of progress within a step.
        recorder: takes what is counted.
        slot: label of the video there.

    Raises:
        DenoiseError: the prompts cannot be encoded.
    """

    def __init__(
        self,
        pool: Any,
        workers: Sequence[Any],
        planner: ForwardPlanner,
        *,
        priority: int = 0,
        on_windows: OnWindows | None = None,
        recorder: Recorder | None = None,
        slot: int = 0,
    ) -> None:
        self.forward_s = 0.0
        self.num_windows = 0
        self.anchor_forwards = 0
        self.halved_batches = 0
        self._pool = pool
        self._workers = workers
        self._planner = planner
        self._on_windows = on_windows or (lambda done, total: None)
        self._metrics = ForwardMetrics(recorder or Silent(), slot)
        self._video = planner.job.specification_hash
        self._priority = priority
        self._ticket = ""
        self._open()
        try:
            self._conditioning = self._encode()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        # For as long as the pool is being started anew.
        opened = self._pool.open.options(max_task_retries=-1)
        ticket = ray.get(opened.remote(self._video, self._priority, self._workers, self._ticket))
        if not ticket:
            raise DenoiseError("a later attempt at this video has taken over")
        self._ticket = ticket
        self._news = self._pool.take.remote(ticket)
        self._asked: list[Any] = []
        """References of the pool's answers, which are grants."""
        self._step = 0

    def close(self) -> None:
        """Leave the pool; workers that still compute for this video are free when they are done."""
        self._pool.close.remote(self._ticket)

    def denoise(self, latents_BFCHW: Tensor, plan: StepPlan) -> Iterator[tuple[Window, Tensor]]:
        """Yield (window, prediction (1, L, C, H, W)) in window order, as they become ready.

        Raises:
            DenoiseError: a batch failed as often as it may, or no worker is left.
        """
        self._metrics.plan(plan)
        forwards = self._planner.forwards(plan)
        anchors: dict[str, Any] = {}

        def send(task: int, worker: Any) -> Any:
            forward = forwards[task]
            batch = WindowBatch(forward, _array(gather_clips(latents_BFCHW, forward.windows)))
            anchor = _shared_anchor(anchors, forward, latents_BFCHW)
            self._metrics.sent(batch, _clip_bytes(batch) if anchor is not None else 0)
            return worker.denoise.remote(batch, self._conditioning, anchor)

        # Without an anchor no group suits a worker better than another.
        groups = [None if forward.anchor is None else forward.path for forward in forwards]
        answers: dict[int, Any] = {}
        done = turn = 0
        try:
            for task, answer in self._answers(groups, send):
                self._count(answer)
                self._metrics.answered(forwards[task], answer)
                answers[task] = answer
                done += len(forwards[task].windows)
                self._on_windows(done, len(plan.windows))
                while turn in answers:
                    predictions = torch.tensor(answers.pop(turn).predictions_BFCHW).split(1)
                    yield from zip(forwards[turn].windows, predictions, strict=True)
                    turn += 1
        except _TaskError as error:
            windows = [window.index for window in forwards[error.task].windows]
            raise DenoiseError(
                f"step {plan.step_index} (timestep {plan.timestep}), windows {windows}: {error}"
            ) from None
        self.num_windows += len(plan.windows)

    def _encode(self) -> Any:
        """Encode the prompts on one worker; a reference that all share."""
        job = self._planner.job
        prompts = tuple(prompt.text for prompt in job.timeline)
        negative_prompt = job.pipeline.sampling.negative_prompt

        def send(task: int, worker: Any) -> Any:
            return worker.encode_prompts.remote(prompts, negative_prompt)

        try:
            # Sticky, so that few of them load the text encoder.
            ((_, encoded),) = self._answers([None], send, sticky=True)
        except _TaskError as error:
            raise DenoiseError(f"the prompt cannot be encoded: {error}") from None
        return _shared(encoded, sum(array.nbytes for array in encoded.values()))

    def _count(self, answer: Any) -> None:
        self.forward_s += answer.forward_s
        self.anchor_forwards += answer.anchor_forwards
        self.halved_batches += answer.halvings

    def _answers(
        self, groups: Sequence[str | None], send: _Send, *, sticky: bool = False
    ) -> Iterator[tuple[int, Any]]:
        """(task, answer) of a round of tasks, as they come."""
        self._submit(groups, sticky)
        running: dict[Any, Assignment] = {}
        done: set[int] = set()
        losses = 0
        while len(done) < len(groups):
            ready = _ready([self._news, *self._asked, *running])
            granted = self._granted(ready)
            if granted is None:
                losses += 1
                if losses == _MAX_LOSSES:
                    raise DenoiseError(f"the pool died {losses} times in one step")
                # What workers have is answered nevertheless; what is done is not done again.
                self._open()
                self._submit(groups, sticky)
                running = {ref: replace(one, attempt=_NOBODYS) for ref, one in running.items()}
                continue
            for assignment in granted:
                if assignment.step == self._step and assignment.task not in done:
                    worker = self._workers[assignment.worker]  # type: ignore[call-overload]
                    running[send(assignment.task, worker)] = assignment
                else:
                    self._complete([(assignment, None)])
            answered = [(running.pop(ref), ref) for ref in ready if ref in running]
            for assignment, answer in self._answered(answered):
                # An attempt given up for dead may have answered before: the same bits.
                if assignment.task not in done:
                    done.add(assignment.task)
                    yield assignment.task, answer

    def _submit(self, groups: Sequence[str | None], sticky: bool) -> None:
        self._step += 1
        # What was asked before was granted for a step that is over.
        self._asked = [self._pool.submit.remote(self._ticket, groups, sticky)]

    def _granted(self, ready: Sequence[Any]) -> list[Assignment] | None:
        """What the pool granted, of its answers that are ready. None where the pool died, and knows
        of nothing.

        Raises:
            _TaskError: a task has failed as often as it may.
            DenoiseError: no worker is left.
        """
        granted: list[Assignment] = []
        for ref in [one for one in (self._news, *self._asked) if one in ready]:
            try:
                news = ray.get(ref)
            except RayActorError:
                return None
            if news is None:
                return None
            if ref == self._news:
                self._news = self._pool.take.remote(self._ticket)
            else:
                self._asked.remove(ref)
            if not isinstance(news, Failure):
                granted += news
            elif news.task is None:
                raise DenoiseError(news.reason)
            else:
                raise _TaskError(news.task, news.reason)
        return granted

    def _answered(self, answered: Sequence[tuple[Assignment, Any]]) -> list[tuple[Assignment, Any]]:
        """Answers by their references, without those that failed.

        The pool is told of all of them at once and first: their workers wait for it.
        """
        answers = [(assignment, self._answer(ref, assignment)) for assignment, ref in answered]
        well = [(assignment, answer) for assignment, answer in answers if answer is not None]
        if well:
            self._complete([(one, getattr(answer, "forward_s", None)) for one, answer in well])
        return well

    def _answer(self, ref: Any, assignment: Assignment) -> Any:
        """A worker's answer, or None where it failed and the task waits again."""
        try:
            return ray.get(ref)
        except RayError as error:
            if isinstance(getattr(error, "cause", None), FloatingPointError):
                # It would be the same again, and the worker is well.
                self._metrics.nonfinite()
                raise _TaskError(assignment.task, reason(error)) from None
            is_lost = not isinstance(error, RayTaskError)
            # With its traceback, of which others are told the last line.
            _LOG.warning("did not answer: %s", error, extra={"worker": assignment.worker})
            self._pool.fail.remote(assignment, reason(error), is_lost)
            return None

    def _complete(self, answers: list[tuple[Assignment, float | None]]) -> None:
        self._asked.append(self._pool.complete.remote(self._ticket, answers))


class _TaskError(RuntimeError):
    """A task of the round cannot be done."""

    def __init__(self, task: int, why: str) -> None:
        super().__init__(why)
        self.task = task


def _ready(refs: Sequence[Any]) -> list[Any]:
    """All that are ready, as soon as one is."""
    ray.wait(refs, num_returns=1)
    ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
    return ready


def _shared_anchor(anchors: dict[str, Any], forward: Forward, latents_BFCHW: Tensor) -> Any:
    """The anchor's clip, as all batches of its path share it, or None."""
    if forward.anchor is None or forward.is_anchor:
        return None
    if forward.path not in anchors:
        clip = _array(gather_clips(latents_BFCHW, [forward.anchor]))
        anchors[forward.path] = _shared(clip, clip.nbytes)
    return anchors[forward.path]


def _shared(value: Any, num_bytes: int) -> Any:
    """An argument of many calls: a reference, or itself where it is cheaper to send along."""
    return value if num_bytes <= _SENT_ALONG_BYTES else ray.put(value)


def _clip_bytes(batch: WindowBatch) -> int:
    return batch.clips_BFCHW[:1].nbytes


def _array(tensor: Tensor) -> Array:
    return tensor.cpu().numpy()
