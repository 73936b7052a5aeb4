"""diffusers' noise schedulers for the loop: one step on the full latents, in float32."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from functools import cached_property
from hashlib import sha256
from typing import Any, TypeVar

import torch
from torch import Tensor

from glc_ray.backbones import scheduler_choice
from glc_ray.backbones.scheduler_state import attributes, changes, pack, put_back, unpack
from glc_ray.config import ModelSpec, SamplingSpec
from glc_ray.protocols import SchedulerState, StepResult, UserError

_OLD_X0 = "old_pred_original_sample"
_INNER = "scheduler."
"""What diffusers' scheduler keeps has names with this in front in a state."""

_Result = TypeVar("_Result")


def load(
    model: ModelSpec, sampling: SamplingSpec, generator: torch.Generator
) -> DiffusersScheduler:
    """The noise scheduler of a job, set to its number of steps.

    Args:
        model: its files say how it was trained.
        sampling: which scheduler, with which settings and steps.
        generator: gives the noise of stochastic schedulers.

    Raises:
        UserError: it does not fit the model, or an option does not fit the scheduler.
    """
    return _or_blame(sampling, lambda tried: _load(model, tried, generator))


def check(model: ModelSpec, sampling: SamplingSpec) -> None:
    """Refuse a scheduler or options that cannot sample this model (UserError); reads no weights.

    A rehearsal on one number finds what diffusers refuses only while it steps.
    """

    def rehearse(tried: SamplingSpec) -> None:
        scheduler = _load(model, tried, torch.Generator())
        latents = torch.ones(1, 1, 1, 1, 1)
        for step_index in range(len(scheduler.timesteps)):
            latents = scheduler.step(torch.zeros_like(latents), step_index, latents).prev_sample
            if not latents.isfinite().all():
                raise ValueError(f"step {step_index} gives NaN or infinite latents")

    _or_blame(sampling, rehearse)


class DiffusersScheduler:
    """A `glc_ray.protocols.NoiseScheduler`.

    Between steps it keeps what the next one needs of the last, beside what the scheduler of
    diffusers keeps itself.
    """

    def __init__(self, scheduler: Any, num_steps: int, generator: torch.Generator) -> None:
        """Prepare.

        Args:
            scheduler: of diffusers.
            num_steps: denoising steps.
            generator: gives the noise of a stochastic scheduler, in the pipeline's order.
        """
        assert getattr(scheduler, "init_noise_sigma", 1.0) == 1.0, "z_T must be unit noise"
        _set_timesteps(scheduler, num_steps)
        self._scheduler = scheduler
        self._is_flow = scheduler_choice.is_flow(scheduler)
        self._accepted = frozenset(inspect.signature(scheduler.step).parameters)
        self._generator = generator
        self._start = attributes(scheduler)
        self._old_x0: Tensor | None = None
        self._prev_sample: Tensor | None = None
        self.timesteps: tuple[float, ...] = tuple(scheduler.timesteps.tolist())

    def step(self, prediction: Tensor, step_index: int, latents: Tensor) -> StepResult:
        """z_t -> z_{t-1} with the guided prediction; all (1, K, C, H, W) float32."""
        self._follow(step_index)
        self._keep_change(step_index, latents)
        prev_sample, *returned = self._scheduler.step(
            model_output=prediction,
            timestep=self.timesteps[step_index],
            sample=latents,
            return_dict=False,
            **self._extras(step_index),
        )
        if returned:
            x0 = returned[0]
        elif hasattr(self._scheduler, "model_outputs"):
            # A multistep solver for x̂0 keeps it, already converted.
            x0 = self._scheduler.model_outputs[-1]
        else:
            x0 = latents - self._noise_level(step_index)[1] * prediction
        self._old_x0 = x0 if _OLD_X0 in self._accepted else None
        self._prev_sample = prev_sample if hasattr(self._scheduler, "last_sample") else None
        return StepResult(prev_sample, x0, self._signal_scale(step_index))

    @property
    def ends_framewise(self) -> bool:
        """Whether the last step treats every latent frame by itself.

        One that ends at clean latents does: noise that is drawn for it has no weight.
        """
        return not scheduler_choice.draws_noise(self._scheduler) or self._ends_clean

    def of_frames(self, frames: slice) -> DiffusersScheduler:
        """The same before its last step, for some latent frames alone; it goes its own way."""
        assert self.ends_framewise, "the noise of a step is that of all frames"
        part = copy.copy(self)
        part._scheduler = copy.copy(self._scheduler)
        state = self.state()
        part.restore(SchedulerState(_cut(state.tensors, frames), state.values))
        return part

    def state(self) -> SchedulerState:
        """All that later steps depend on, but for the latents.

        No tensor is copied, as none is ever written into: a step replaces those of the last.
        """
        kept = changes(self._scheduler, self._start)
        return pack(
            self._identity
            | {"generator": self._generator.get_state()}
            | {"old_x0": self._old_x0, "prev_sample": self._prev_sample}
            | {_INNER + name: value for name, value in kept.items()}
        )

    def restore(self, state: SchedulerState) -> None:
        """Go on where the state was taken; the generator, whoever shares it, does so as well.

        Raises:
            ValueError: it is that of another scheduler, number of steps or setting.
        """
        own = self._identity
        if differing := [key for key in own if state.values.get(key) != own[key]]:
            raise ValueError(
                "the state is of another noise scheduler: "
                + ", ".join(f"{key} {state.values.get(key)}, not {own[key]}" for key in differing)
            )
        parts = unpack(state)
        kept = {
            name.removeprefix(_INNER): part
            for name, part in parts.items()
            if name.startswith(_INNER)
        }
        put_back(self._scheduler, self._start, kept)
        self._generator.set_state(parts["generator"])
        self._old_x0, self._prev_sample = parts["old_x0"], parts["prev_sample"]

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What a state must agree in: settings too, as a model's files may have changed."""
        config = self._scheduler.config.items()
        settings = {key: _as_text(value) for key, value in config if not key.startswith("_")}
        name = type(self._scheduler).__name__
        return {"class": name, "num_steps": len(self.timesteps), **settings}

    def _follow(self, step_index: int) -> None:
        """Hold a solver's own counter to the loop's; integer timesteps may repeat."""
        if hasattr(self._scheduler, "set_begin_index"):
            if self._scheduler.step_index is None:
                self._scheduler.set_begin_index(step_index)
            else:
                assert self._scheduler.step_index == step_index, "steps out of order"

    def _extras(self, step_index: int) -> dict[str, Any]:
        """What some schedulers take besides: noise, and the step before (DPM of CogVideoX)."""
        extras: dict[str, Any] = {}
        if "generator" in self._accepted:
            extras["generator"] = self._generator
        if _OLD_X0 in self._accepted:
            is_first = self._old_x0 is None
            extras[_OLD_X0] = self._old_x0
            extras["timestep_back"] = None if is_first else self.timesteps[step_index - 1]
        return extras

    def _keep_change(self, step_index: int, latents: Tensor) -> None:
        """Bring a change of the latents between steps (VMCR) through UniPC's corrector.

        The corrector computes z_t anew from the sample before the last predictor, z_s, and would
        throw the change away: z_t = (σ_t / σ_s)·z_s + terms in x̂0. So z_s moves by
        (σ_s / σ_t)·change, and z_t by the change itself. Unchanged latents leave every bit alone;
        by their values, since those of a file are never the same object.
        """
        if self._prev_sample is None or torch.equal(latents, self._prev_sample):
            return
        ratio = self._noise_level(step_index - 1)[1] / self._noise_level(step_index)[1]
        change = latents - self._prev_sample
        self._scheduler.last_sample = self._scheduler.last_sample + ratio * change

    def _noise_level(self, index: int) -> tuple[float, float]:
        """(factor of x̂0, factor of ε) in the latents that step ``index`` starts from."""
        sigma = float(self._scheduler.sigmas[index])
        if self._is_flow:
            return 1 - sigma, sigma
        alpha = (1 + sigma**2) ** -0.5
        return alpha, sigma * alpha

    def _signal_scale(self, step_index: int) -> float:
        if step_index + 1 == len(self.timesteps):
            return 1.0
        if hasattr(self._scheduler, "sigmas"):
            return self._noise_level(step_index + 1)[0]
        return self._alpha_after(step_index) ** 0.5

    @property
    def _ends_clean(self) -> bool:
        """Whether the latents after the last step hold no noise."""
        if hasattr(self._scheduler, "sigmas"):
            return self._noise_level(len(self.timesteps))[1] == 0
        return self._alpha_after(len(self.timesteps) - 1) == 1

    def _alpha_after(self, step_index: int) -> float:
        """ᾱ of the latents that a step without a list of sigmas ends at."""
        # DDIM's own arithmetic: the next timestep is t - 1000 // n, not the next of the list.
        stride = self._scheduler.config.num_train_timesteps // self._scheduler.num_inference_steps
        previous = int(self.timesteps[step_index]) - stride
        if previous < 0:
            return float(self._scheduler.final_alpha_cumprod)
        return float(self._scheduler.alphas_cumprod[previous])


def _cut(tensors: Mapping[str, Tensor], frames: slice) -> dict[str, Tensor]:
    """Those of latents (B, F, C, H, W) in some frames, the others as they are."""
    return {
        name: tensor[:, frames] if tensor.dim() == 5 else tensor for name, tensor in tensors.items()
    }


def _as_text(setting: object) -> str:
    """JSON has no infinite numbers; a list of noise levels, which is long, by its checksum."""
    text = str(setting)
    return text if len(text) < 80 else f"sha256 {sha256(text.encode()).hexdigest()[:16]}"


def _set_timesteps(scheduler: Any, num_steps: int) -> None:
    scheduler.set_timesteps(num_steps)
    if len(scheduler.timesteps) < num_steps:
        raise ValueError(f"it gives {len(scheduler.timesteps)} timesteps for {num_steps} steps")
    if len(scheduler.timesteps) > num_steps:
        # For some numbers (61, 103, ...) rounding gives one step too many, at timestep -1.
        scheduler.timesteps = scheduler.timesteps[:num_steps]
        if hasattr(scheduler, "sigmas"):
            last = scheduler.sigmas[-1:]
            scheduler.sigmas = torch.cat([scheduler.sigmas[:num_steps], last])


def _load(
    model: ModelSpec, sampling: SamplingSpec, generator: torch.Generator
) -> DiffusersScheduler:
    return DiffusersScheduler(
        scheduler_choice.build(model, sampling), sampling.num_steps, generator
    )


def _or_blame(sampling: SamplingSpec, attempt: Callable[[SamplingSpec], _Result]) -> _Result:
    """The attempt's result, or a UserError that names the first option diffusers refuses."""
    try:
        return attempt(sampling)
    except UserError:
        raise
    except Exception as error:  # diffusers raises whatever a wrong value happens to break.
        culprit = _culprit(sampling, attempt)
        where = (
            f"sampling.scheduler = {sampling.scheduler!r} with num_steps = {sampling.num_steps}"
            if culprit is None
            else f"sampling.scheduler_options.{culprit} = {sampling.scheduler_options[culprit]!r}"
        )
        raise UserError(
            f"{where}: diffusers refuses it ({type(error).__name__}: {error}); give another value "
            "or leave it out"
        ) from error


def _culprit(sampling: SamplingSpec, attempt: Callable[[SamplingSpec], object]) -> str | None:
    """The option with which attempts begin to fail, added one by one; None fails without any."""
    options = list(sampling.scheduler_options.items())
    for count, key in enumerate((None, *sampling.scheduler_options)):
        some = dict(options[:count])
        try:
            attempt(sampling.model_copy(update={"scheduler_options": some}))
        except Exception:
            return key
    return None
