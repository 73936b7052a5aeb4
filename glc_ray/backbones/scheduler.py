"""diffusers' noise schedulers for the loop: one step on the full latents, in float32."""

from __future__ import annotations

import diffusers
import torch
from torch import Tensor

from glc_ray.backbones import model_folder
from glc_ray.config import ModelSpec, SamplingSpec
from glc_ray.protocols import StepResult


def load(
    model: ModelSpec, sampling: SamplingSpec, generator: torch.Generator
) -> DiffusersScheduler:
    """The noise scheduler of a job, set to its number of steps.

    Args:
        model: its files say how it was trained.
        sampling: which scheduler, with which settings and steps.
        generator: gives the noise of stochastic schedulers.
    """
    folder = model_folder.resolve(model, weights=False)
    scheduler = diffusers.CogVideoXDDIMScheduler.from_pretrained(folder, subfolder="scheduler")
    return DiffusersScheduler(scheduler, sampling.num_steps)


class DiffusersScheduler:
    """A `glc_ray.protocols.NoiseScheduler`."""

    def __init__(self, scheduler: diffusers.CogVideoXDDIMScheduler, num_steps: int) -> None:
        self._scheduler = scheduler
        self._scheduler.set_timesteps(num_steps)
        # For some numbers (61, 103, ...) rounding gives one step too many, at timestep -1.
        self.timesteps: tuple[float, ...] = tuple(self._scheduler.timesteps.tolist()[:num_steps])

    def step(self, prediction: Tensor, step_index: int, latents: Tensor) -> StepResult:
        """z_t -> z_{t-1} with the guided prediction; all (1, K, C, H, W) float32."""
        timestep = self.timesteps[step_index]
        output = self._scheduler.step(prediction, timestep, latents)
        # The scheduler's own arithmetic: the next timestep is t - 1000 // n.
        previous = timestep - self._scheduler.config.num_train_timesteps // len(self.timesteps)
        is_last = step_index + 1 == len(self.timesteps) or previous < 0
        return StepResult(
            prev_sample=output.prev_sample,
            pred_original_sample=output.pred_original_sample,
            signal_scale=1.0 if is_last else float(self._scheduler.alphas_cumprod[previous]) ** 0.5,
        )
