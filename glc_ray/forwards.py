"""From a step's plan to model forwards: batches of windows, their prompts and their guidance."""

from __future__ import annotations

import math

from glc_ray.config import SamplingSpec, VideoJob
from glc_ray.core.timeline import window_prompt_weights
from glc_ray.protocols import Forward, ModelFacts, Path, StepPlan, Window


class ForwardPlanner:
    """Splits each step's plan of one job into forwards, the same for any number of workers."""

    def __init__(self, job: VideoJob, facts: ModelFacts) -> None:
        """Prepare for a job.

        Args:
            job: its batch size, prompts and guidance.
            facts: of its model.
        """
        self.job = job
        self.facts = facts
        self._video = job.specification_hash
        self._starts = [prompt.at_frame for prompt in job.timeline]

    def forwards(self, plan: StepPlan) -> tuple[Forward, ...]:
        """The step's forwards, in window order."""
        batch_size = self.job.pipeline.denoise.batch_size
        return tuple(
            self._forward(plan, path, windows)
            for path in plan.paths
            for windows in path.batches(batch_size)
        )

    def _forward(self, plan: StepPlan, path: Path, windows: tuple[Window, ...]) -> Forward:
        anchor = path.anchor
        return Forward(
            video=self._video,
            step_index=plan.step_index,
            timestep=plan.timestep,
            path=path.name,
            windows=windows,
            prompt_weights=tuple(map(self._prompt_weights, windows)),
            guidance_scale=guidance_scale(self.job.pipeline.sampling, self.facts, plan.timestep),
            attention=path.attention,
            anchor=anchor,
            anchor_prompt_weights=() if anchor is None else self._prompt_weights(anchor),
        )

    def _prompt_weights(self, window: Window) -> tuple[float, ...]:
        return window_prompt_weights(
            window,
            self._starts,
            self.job.pipeline.sampling.transition_frames,
            self.facts.temporal_ratio,
            self.facts.leading_latent_frames,
        )


def guidance_scale(sampling: SamplingSpec, facts: ModelFacts, timestep: float) -> float | None:
    """The classifier-free guidance of one step; None where guidance is off.

    A second scale counts in the low-noise stage of a model that has one (Wan 2.2). Dynamic guidance
    is CogVideoX's ``use_dynamic_cfg`` to the letter: a function of timestep and number of steps.
    """
    if sampling.guidance_scale <= 1:
        return None
    scale = sampling.guidance_scale
    if facts.low_noise_below is not None and timestep < facts.low_noise_below:
        scale = scale if sampling.guidance_scale_2 is None else sampling.guidance_scale_2
    if not sampling.dynamic_guidance:
        return scale
    progress = (sampling.num_steps - timestep) / sampling.num_steps
    return 1 + scale * (1 - math.cos(math.pi * progress**5.0)) / 2
