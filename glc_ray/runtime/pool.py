"""The pool of denoiser actors, and the Denoiser that dispatches a step's windows to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayError
from torch import Tensor

from glc_ray.config import PipelineSpec
from glc_ray.protocols import StepPlan, Window
from glc_ray.runtime.denoiser import Denoiser
from glc_ray.runtime.dispatch import Assignment, Dispatch, TaskFailedError
from glc_ray.runtime.messages import Array, WindowBatch
from glc_ray.sampler import gather_clips

OnWindows = Callable[[int, int], None]
"""Called with (windows done, windows in the step)."""

_MAX_FAILURES = 3
"""Of one batch before its video fails, and of one worker's starts before it is left out."""


def start_denoisers(pipeline: PipelineSpec) -> list[Any]:
    """Start the pool's actors; each loads the model and is restarted wherever there is room."""
    resources = pipeline.resources.denoisers
    actor = ray.remote(Denoiser).options(
        num_cpus=resources.num_cpus, num_gpus=resources.num_gpus, max_restarts=-1
    )
    return [actor.remote(pipeline.model, pipeline.denoise.threads) for _ in range(resources.count)]


class DenoiseError(RuntimeError):
    """The windows of a step cannot be computed; the message names video, step and windows."""


class PoolDenoiser:
    """Dispatches the windows of one video to the pool; a ``Denoiser`` for the sampler.

    Workers pull: each has one batch at a time, so a slow one holds nothing back. A worker that
    dies gives its batch back and rejoins once Ray has restarted it.
    """

    def __init__(
        self,
        workers: list[Any],
        *,
        video: str,
        prompt: str,
        negative_prompt: str,
        guidance_scale: float,
        batch_size: int,
        on_windows: OnWindows | None = None,
    ) -> None:
        self.forward_s = 0.0
        self.num_windows = 0
        self._video = video
        self._guidance_scale = guidance_scale
        self._batch_size = batch_size
        self._on_windows = on_windows or (lambda done, total: None)
        self._idle: list[Any] = []
        self._starting = {worker.ready.remote(): worker for worker in workers}
        self._failed_starts = dict.fromkeys(workers, 0)
        self._conditioning = self._encode(prompt, negative_prompt)

    def denoise(self, latents_BFCHW: Tensor, plan: StepPlan) -> Iterator[tuple[Window, Tensor]]:
        """Yield (window, prediction (1, L, C, H, W)) in window order, as they become ready.

        Raises:
            DenoiseError: a batch failed as often as it may.
        """
        batches = plan.batches(self._batch_size)
        dispatch = Dispatch(len(batches), max_failures=_MAX_FAILURES)
        running: dict[Any, tuple[Assignment, Any]] = {}
        answers: dict[int, Array] = {}
        next_batch, done = 0, 0
        try:
            while next_batch < len(batches):
                self._submit(dispatch, batches, latents_BFCHW, plan, running)
                task = self._collect(dispatch, running, answers)
                if task is not None:
                    done += len(batches[task])
                    self._on_windows(done, len(plan.windows))
                while next_batch in answers:
                    predictions = torch.tensor(answers.pop(next_batch)).split(1)
                    yield from zip(batches[next_batch], predictions, strict=True)
                    next_batch += 1
        except TaskFailedError as error:
            indices = [window.index for window in batches[error.task]]
            raise DenoiseError(
                f"step {plan.step_index} (timestep {plan.timestep}), windows {indices}: {error}"
            ) from None
        self.num_windows += len(plan.windows)

    def _submit(
        self,
        dispatch: Dispatch,
        batches: tuple[tuple[Window, ...], ...],
        latents_BFCHW: Tensor,
        plan: StepPlan,
        running: dict[Any, tuple[Assignment, Any]],
    ) -> None:
        while self._idle and dispatch.num_waiting:
            worker = self._idle.pop(0)
            assignment = dispatch.assign(worker)
            assert assignment is not None
            windows = batches[assignment.task]
            batch = WindowBatch(
                video=self._video,
                step_index=plan.step_index,
                timestep=plan.timestep,
                path=windows[0].path,
                windows=tuple(window.index for window in windows),
                attempt=assignment.attempt,
                guidance_scale=self._guidance_scale,
                clips_BFCHW=gather_clips(latents_BFCHW, windows).cpu().numpy(),
            )
            running[worker.denoise.remote(batch, self._conditioning)] = (assignment, worker)

    def _collect(
        self,
        dispatch: Dispatch,
        running: dict[Any, tuple[Assignment, Any]],
        answers: dict[int, Array],
    ) -> int | None:
        """Wait for one event; returns the task that it answers, if any."""
        (ref,), _ = ray.wait([*running, *self._starting], num_returns=1)
        if ref in self._starting:
            self._welcome(ref)
            return None
        assignment, worker = running.pop(ref)
        try:
            result = ray.get(ref)
        except RayError as error:
            self._retire(worker, error)
            dispatch.fail(assignment, reason(error))
            return None
        self._idle.append(worker)
        if result.attempt != assignment.attempt or not dispatch.complete(assignment):
            return None
        self.forward_s += result.forward_s
        answers[assignment.task] = result.predictions_BFCHW
        return assignment.task

    def _welcome(self, ref: Any) -> None:
        """A worker has loaded its model, or failed to."""
        worker = self._starting.pop(ref)
        try:
            ray.get(ref)
        except RayActorError as error:
            self._failed_starts[worker] += 1
            if self._failed_starts[worker] < _MAX_FAILURES:
                self._starting[worker.ready.remote()] = worker
            elif not any(count < _MAX_FAILURES for count in self._failed_starts.values()):
                raise DenoiseError(f"no denoiser can start: {reason(error)}") from None
            return
        self._failed_starts[worker] = 0
        self._idle.append(worker)

    def _retire(self, worker: Any, error: RayError) -> None:
        """Put a worker aside until it answers again, or keep it where only the task failed."""
        if isinstance(error, RayActorError):
            self._starting[worker.ready.remote()] = worker
        else:
            self._idle.append(worker)

    def _encode(self, prompt: str, negative_prompt: str) -> Any:
        """Encode the prompt on the first worker that is ready; a reference that all share."""
        reasons: list[str] = []
        while len(reasons) < _MAX_FAILURES:
            while not self._idle:
                (ref,), _ = ray.wait(list(self._starting), num_returns=1)
                self._welcome(ref)
            worker = self._idle.pop(0)
            try:
                encoded = ray.get(worker.encode_prompt.remote(prompt, negative_prompt))
            except RayError as error:
                reasons.append(reason(error))
                self._retire(worker, error)
                continue
            self._idle.append(worker)
            return ray.put(encoded)
        raise DenoiseError(f"the prompt cannot be encoded: {reasons[-1]}")


def reason(error: BaseException) -> str:
    """The line of a Ray error that says what happened."""
    cause = getattr(error, "cause", None)
    if cause is not None:
        return f"{type(cause).__name__}: {cause}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
