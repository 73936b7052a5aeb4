"""The pool of denoiser actors, and the Denoiser that dispatches a step's windows to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from torch import Tensor

from glc_ray.config import PipelineSpec
from glc_ray.forwards import ForwardPlanner
from glc_ray.protocols import Forward, StepPlan, Window
from glc_ray.runtime.denoiser import Denoiser
from glc_ray.runtime.dispatch import Assignment, Dispatch, TaskFailedError
from glc_ray.runtime.messages import Array, WindowBatch
from glc_ray.sampler import gather_clips

OnWindows = Callable[[int, int], None]
"""Called with (windows done, windows in the step)."""

_MAX_FAILURES = 3
"""Of one batch, or of encoding the prompt, before the video fails."""


def start_denoisers(pipeline: PipelineSpec) -> list[Any]:
    """Start the pool's actors; each loads the model and is restarted wherever there is room."""
    resources = pipeline.resources.denoisers
    actor = ray.remote(Denoiser).options(
        num_cpus=resources.num_cpus, num_gpus=resources.num_gpus, max_restarts=-1
    )
    return [actor.remote(pipeline) for _ in range(resources.count)]


class DenoiseError(RuntimeError):
    """The windows of a step cannot be computed; the message names step and windows."""


@dataclass
class _Step:
    """What is under way in one step."""

    plan: StepPlan
    forwards: tuple[Forward, ...]
    dispatch: Dispatch
    anchors: dict[str, Any] = field(default_factory=dict)
    """References of anchor clips, by path."""
    running: dict[Any, Assignment] = field(default_factory=dict)
    """By the reference that will hold the answer."""
    answers: dict[int, Array] = field(default_factory=dict)
    """Predictions by task, until their turn to be fused comes."""
    windows_done: int = 0


class PoolDenoiser:
    """Dispatches the windows of one video to the pool; a ``Denoiser`` for the sampler.

    Workers pull: this video gives each one batch at a time, so a slow one holds nothing back. A
    worker that fails is restarted and rejoins when it has loaded its model; its batch goes to
    whoever is idle first.
    """

    def __init__(
        self,
        workers: list[Any],
        planner: ForwardPlanner,
        *,
        on_windows: OnWindows | None = None,
    ) -> None:
        self.forward_s = 0.0
        self.num_windows = 0
        self.anchor_forwards = 0
        self._planner = planner
        self._workers = workers
        self._on_windows = on_windows or (lambda done, total: None)
        self._idle: list[Any] = []
        self._starting: dict[Any, Any] = {}
        self._lives: dict[Any, str] = {}
        """What each worker answered last when it was asked whether it is ready."""
        self._killed: set[str] = set()
        for worker in workers:
            self._await_start(worker)
        self._conditioning = self._encode()

    def denoise(self, latents_BFCHW: Tensor, plan: StepPlan) -> Iterator[tuple[Window, Tensor]]:
        """Yield (window, prediction (1, L, C, H, W)) in window order, as they become ready.

        Raises:
            DenoiseError: a batch failed as often as it may, or no worker is left.
        """
        self._see_who_lives()
        forwards = self._planner.forwards(plan)
        # Without an anchor no group suits a worker better than another.
        groups = [None if forward.anchor is None else forward.path for forward in forwards]
        step = _Step(plan, forwards, Dispatch(groups, max_failures=_MAX_FAILURES))
        for task, forward in enumerate(forwards):
            while task not in step.answers:
                self._submit(step, latents_BFCHW)
                self._collect(step)
            # Nobody idles while the caller fuses.
            self._submit(step, latents_BFCHW)
            predictions = torch.tensor(step.answers.pop(task)).split(1)
            yield from zip(forward.windows, predictions, strict=True)
        self.num_windows += len(plan.windows)

    def _submit(self, step: _Step, latents_BFCHW: Tensor) -> None:
        """Give every idle worker a batch, while any waits."""
        while self._idle and step.dispatch.num_waiting:
            worker = self._idle.pop(0)
            assignment = step.dispatch.assign(worker)
            assert assignment is not None
            forward = step.forwards[assignment.task]
            batch = WindowBatch(forward, _array(gather_clips(latents_BFCHW, forward.windows)))
            anchor = self._anchor(step, forward, latents_BFCHW)
            step.running[worker.denoise.remote(batch, self._conditioning, anchor)] = assignment

    def _anchor(self, step: _Step, forward: Forward, latents_BFCHW: Tensor) -> Any:
        """The anchor's clip as a reference that all batches of its path share, or None."""
        if forward.anchor is None or forward.is_anchor:
            return None
        if forward.path not in step.anchors:
            clip = _array(gather_clips(latents_BFCHW, [forward.anchor]))
            step.anchors[forward.path] = ray.put(clip)
        return step.anchors[forward.path]

    def _collect(self, step: _Step) -> None:
        """Wait for one event: an answer, a failure, or a worker that has started."""
        (ref,), _ = ray.wait([*step.running, *self._starting], num_returns=1)
        if ref in self._starting:
            self._welcome(ref, others_run=bool(step.running))
            return
        assignment = step.running.pop(ref)
        try:
            result = ray.get(ref)
        except RayError as error:
            is_numeric = isinstance(getattr(error, "cause", None), FloatingPointError)
            if is_numeric:
                # It would be the same again, and the worker is well.
                self._idle.append(assignment.worker)
                raise DenoiseError(_of(step, assignment, reason(error))) from None
            self._restart(assignment.worker, error)
            self._fail(step, assignment, reason(error))
            return
        self._idle.append(assignment.worker)
        if step.dispatch.complete(assignment):
            self.forward_s += result.forward_s
            self.anchor_forwards += result.anchor_forwards
            step.answers[assignment.task] = result.predictions_BFCHW
            step.windows_done += len(step.forwards[assignment.task].windows)
            self._on_windows(step.windows_done, len(step.plan.windows))

    def _fail(self, step: _Step, assignment: Assignment, why: str) -> None:
        try:
            step.dispatch.fail(assignment, why)
        except TaskFailedError as error:
            raise DenoiseError(_of(step, assignment, str(error))) from None

    def _see_who_lives(self) -> None:
        """Ask idle workers for a sign before a step: one that died unseen gets no task, which would
        count as the task's failure."""
        idle, self._idle = self._idle, []
        for worker in idle:
            self._await_start(worker)

    def _await_start(self, worker: Any) -> None:
        # Ray repeats the question for as long as the actor is being restarted, somewhere.
        ref = worker.ready.options(max_task_retries=-1).remote()
        self._starting[ref] = worker

    def _welcome(self, ref: Any, *, others_run: bool = False) -> None:
        """A worker has loaded its model, or never will.

        Raises:
            DenoiseError: it never will, and it was the last.
        """
        worker = self._starting.pop(ref)
        try:
            life = ray.get(ref)
        except RayError as error:
            if not (self._starting or self._idle or others_run):
                raise DenoiseError(f"no denoiser can start: {reason(error)}") from None
            return
        if life in self._killed:
            # It answered before the kill arrived.
            self._await_start(worker)
            return
        self._lives[worker] = life
        self._idle.append(worker)

    def _restart(self, worker: Any, error: RayError) -> None:
        """Put a failed worker aside until it has started anew."""
        if isinstance(error, RayTaskError):
            # It lives, but a CUDA context does not heal after an error.
            self._killed.add(self._lives[worker])
            ray.kill(worker, no_restart=False)
        self._await_start(worker)

    def _encode(self) -> Any:
        """Encode the prompts on one worker; a reference that all share.

        The first of those that are ready, so that few of them load the text encoder.
        """
        job = self._planner.job
        prompts = tuple(prompt.text for prompt in job.timeline)
        reasons: list[str] = []
        while len(reasons) < _MAX_FAILURES:
            while not self._idle:
                (ref,), _ = ray.wait(list(self._starting), num_returns=1)
                self._welcome(ref)
            worker = min(self._idle, key=self._workers.index)
            self._idle.remove(worker)
            try:
                encoded = ray.get(
                    worker.encode_prompts.remote(prompts, job.pipeline.sampling.negative_prompt)
                )
            except RayError as error:
                reasons.append(reason(error))
                self._restart(worker, error)
                continue
            self._idle.append(worker)
            return ray.put(encoded)
        raise DenoiseError(f"the prompt cannot be encoded: {reasons[-1]}")


def _of(step: _Step, assignment: Assignment, what: str) -> str:
    """What happened, with step and windows."""
    windows = [window.index for window in step.forwards[assignment.task].windows]
    plan = step.plan
    return f"step {plan.step_index} (timestep {plan.timestep}), windows {windows}: {what}"


def _array(tensor: Tensor) -> Array:
    return tensor.cpu().numpy()


def reason(error: BaseException) -> str:
    """The line of a Ray error that says what happened."""
    cause = getattr(error, "cause", None)
    text = str(error) if cause is None else f"{type(cause).__name__}: {cause}"
    if cause is not None and "Traceback" not in text and "::" not in text:
        return text
    # Ray puts a remote traceback into the text, and what happened into its last line.
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
