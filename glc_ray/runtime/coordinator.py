"""The coordinator actor: fusion, gamma, scheduler steps and refinement of one video at a time."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import ray
import torch
from torch import Tensor

from glc_ray.backbones.registry import facts
from glc_ray.config import CoordinatorResources, VideoJob
from glc_ray.forwards import ForwardPlanner
from glc_ray.logs import about, log_file
from glc_ray.protocols import StepResult
from glc_ray.runtime.band_writer import BandWriter
from glc_ray.runtime.checkpointer import Checkpointer
from glc_ray.runtime.errors import CancelledError
from glc_ray.runtime.farm import Farm
from glc_ray.runtime.messages import Timings
from glc_ray.runtime.metrics import Recorder
from glc_ray.runtime.pool_denoiser import PoolDenoiser
from glc_ray.runtime.previews import Previews
from glc_ray.runtime.rows import video_id
from glc_ray.runtime.step_metrics import StepMetrics
from glc_ray.runtime.stored_latents import store_timings
from glc_ray.sampler import Boundary, OnFinal, StepReport, sample_job
from glc_ray.store import checkpoint as checkpoints
from glc_ray.store.latents import save_latents
from glc_ray.store.output import Output
from glc_ray.store.paths import work_latents_path
from glc_ray.store.run_status import VideoProgress

_LOG = logging.getLogger(__name__)
_CONTROL = "control"
_TELL_S = 0.2
"""Between two reports within a step."""


def start_coordinator(
    farm: Farm,
    resources: CoordinatorResources | None = None,
    *,
    threads: int = 1,
    max_restarts: int = -1,
) -> Any:
    """Start a coordinator actor, which dies with its owner.

    Args:
        farm: what it works with.
        resources: what it asks of its node.
        threads: CPU threads for the mathematics on the full latents.
        max_restarts: after how many deaths it is not started anew; -1 is always.
    """
    resources = resources or CoordinatorResources()
    actor = ray.remote(concurrency_groups={_CONTROL: 1})(Coordinator)
    return actor.options(
        num_cpus=resources.num_cpus, resources=resources.custom, max_restarts=max_restarts
    ).remote(farm, threads)


def checkpoint_now(coordinator: Any) -> Any:
    """Have a coordinator store what it has, though it is at work; the reference of its answer."""
    return coordinator.checkpoint.options(concurrency_group=_CONTROL).remote()


def await_coordinator(coordinator: Any) -> None:
    """Wait until a coordinator has started, perhaps again and elsewhere."""
    ray.get(coordinator.ready.options(max_task_retries=-1).remote())


class Coordinator:
    """Drives the sampling loop of a video with the pool's workers.

    Args:
        farm: what it works with.
        threads: CPU threads for the mathematics on the full latents.
    """

    def __init__(self, farm: Farm, threads: int) -> None:
        self._farm = farm
        self._threads = threads
        self._output = Output(farm.output)
        self._checkpointer: Checkpointer | None = None
        farm.telemetry.log()
        self._recorder = farm.telemetry.recorder()

    def ready(self) -> None:
        """Answers once the actor has started, perhaps again."""

    def log_file(self) -> str:
        """Where this process logs to."""
        return log_file()

    def denoise(
        self,
        job: VideoJob,
        name: str,
        priority: int = 0,
        attempt: int = 1,
        bands: str | None = None,
    ) -> Timings:
        """Noise to clean latents, which are stored; goes on where an earlier attempt came to.

        Args:
            job: the video.
            name: of its files.
            priority: higher goes first.
            attempt: how often it was begun in this run, for the log.
            bands: names this attempt, whose latents decoders are told of as they become final;
                None tells nobody.

        Raises:
            DenoiseError: a window cannot be computed.
            CancelledError: somebody asked for its end.
        """
        # In the thread that computes: OpenMP's numbers are a thread's own.
        torch.set_num_threads(self._threads)
        about(video=name, attempt=attempt, step=0)
        me = ray.get_runtime_context().current_actor
        progress = _Progress(self._farm.board, job, name, self._recorder)
        progress.loading(me)
        self._checkpointer = checkpointer = Checkpointer(self._output, video_id(job), job)
        with ExitStack() as stack:
            stack.callback(progress.leave)
            stack.callback(checkpointer.close)
            on_final = None
            if bands is not None:
                writer = BandWriter(self._output, self._farm.board, job, bands)
                stack.callback(writer.close)
                on_final = writer.add
            try:
                latents, timings = self._sample(job, priority, progress, checkpointer, on_final)
            except CancelledError as error:
                _LOG.info("%s", error)
                raise
            except Exception:
                _LOG.exception("denoising failed")
                raise
            finally:
                checkpointer.close()
                progress.metrics.checkpoints(checkpointer.write_s, checkpointer.written_bytes)
        metadata = {
            "job": job.model_dump_json(),
            "specification_hash": job.specification_hash,
            "latents_hash": job.latents_hash,
        }
        progress.metrics.moved("latents", latents.nbytes)
        # First: whoever finds the latents looks for what they took.
        store_timings(self._output, job, timings)
        save_latents(self._output, work_latents_path(video_id(job)), latents, metadata)
        checkpoints.delete(self._output, video_id(job))
        _LOG.info("denoised in %.1f s, %d windows", timings.denoise_s, timings.num_windows)
        return timings

    def checkpoint(self) -> None:
        """Store the state after the last step, from another thread than the one that denoises."""
        if self._checkpointer is not None:
            self._checkpointer.flush()

    def _sample(
        self,
        job: VideoJob,
        priority: int,
        progress: _Progress,
        checkpointer: Checkpointer,
        on_final: OnFinal | None,
    ) -> tuple[Tensor, Timings]:
        start, before = checkpointer.load() or (None, Timings())
        if start is not None:
            before = replace(before, resumed_at_step=start.step_index)
            progress.steps_done = start.step_index
            about(step=start.step_index)
            _LOG.info("goes on from its checkpoint")
        begun = time.perf_counter()
        model = facts(job.pipeline.model)
        previews = Previews(self._farm, job, progress.name, model, next_step=progress.steps_done)
        denoiser = PoolDenoiser(
            self._farm.pool,
            self._farm.workers,
            ForwardPlanner(job, model),
            priority=priority,
            on_windows=progress.windows,
            recorder=self._recorder,
            slot=progress.slot,
        )
        prompt_s = time.perf_counter() - begun

        def timings() -> Timings:
            return before + progress.timings(denoiser, prompt_s)

        def offer(boundary: Boundary) -> None:
            progress.metrics.checkpoints(checkpointer.write_s, checkpointer.written_bytes)
            checkpointer.offer(boundary, timings())
            # Not before: who asks for a cancelled video again goes on from here. After the last
            # step its latents are stored; decoders hear of the end then.
            progress.go_on()

        def step(report: StepReport, latents: Tensor) -> None:
            previews.step(report, latents)
            progress.step(report)

        def refined(result: StepResult, latents: Tensor) -> None:
            previews.predicted(result)
            progress.metrics.refined(result, latents)

        try:
            latents = sample_job(
                job,
                denoiser,
                start=start,
                on_step=step,
                on_boundary=offer,
                on_update=refined,
                on_final=on_final,
            )
        except FloatingPointError:
            progress.metrics.nonfinite()
            raise
        except CancelledError:
            checkpointer.flush()
            raise
        finally:
            denoiser.close()
        total = timings()
        return latents, replace(total, checkpoint_s=total.checkpoint_s + checkpointer.write_s)


class _Progress:
    """Tells the board, and hears from it whether to go on."""

    def __init__(self, board: Any, job: VideoJob, name: str, recorder: Recorder) -> None:
        self.steps_done = 0
        self._told = 0.0
        self._steps: list[StepReport] = []
        self._board = board
        self._key = job.specification_hash
        self.name = name
        self._num_steps = job.pipeline.sampling.num_steps
        self.slot: int = ray.get(board.begin.remote(self._key, name))
        self.metrics = StepMetrics(recorder, job, self.slot)

    def loading(self, coordinator: Any) -> None:
        self._me = coordinator
        self._board.attend.remote(self.name, coordinator)

    def leave(self) -> None:
        self._board.leave.remote(self.name)
        self.metrics.close()

    def windows(self, done: int, total: int) -> None:
        # Told of every window, the board would be told more than the pool.
        if time.monotonic() - self._told > _TELL_S:
            self._tell(windows_done=done, num_windows=total)

    def step(self, report: StepReport) -> None:
        self._steps.append(report)
        self.steps_done = report.step_index + 1
        about(step=report.step_index)
        _LOG.info(
            "done, %d windows: denoise %.2f s, fuse %.2f s, refine %.2f s",
            report.num_windows,
            report.denoise_s,
            report.fuse_s,
            report.update_s,
        )
        self.metrics.step(report)
        self._tell(windows_done=0, num_windows=report.num_windows)

    def go_on(self) -> None:
        """Raises CancelledError where somebody asked for the video's end."""
        if ray.get(self._board.attend.remote(self.name, self._me)):
            raise CancelledError(f"cancelled after step {self.steps_done - 1}")

    def timings(self, denoiser: PoolDenoiser, prompt_s: float) -> Timings:
        """Of the steps so far."""
        return Timings(
            prompt_s=prompt_s,
            denoise_s=sum(step.denoise_s for step in self._steps),
            fuse_s=sum(step.fuse_s for step in self._steps),
            update_s=sum(step.update_s for step in self._steps),
            forward_s=denoiser.forward_s,
            num_windows=denoiser.num_windows,
            anchor_forwards=denoiser.anchor_forwards,
            halved_batches=denoiser.halved_batches,
        )

    def _tell(self, *, windows_done: int, num_windows: int) -> None:
        self._told = time.monotonic()
        progress = VideoProgress(
            name=self.name,
            state="denoising",
            steps_done=self.steps_done,
            num_steps=self._num_steps,
            windows_done=windows_done,
            num_windows=num_windows,
            slot=self.slot,
        )
        self._board.report.remote(self._key, progress)
