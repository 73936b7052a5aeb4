"""Which of diffusers' noise schedulers a job gets, with which settings.

Two families: variance-preserving (z = √ᾱ·x̂0 + √(1 − ᾱ)·ε) and flow matching
(z = (1 − σ)·x̂0 + σ·ε). A model is trained in one of them and cannot be sampled in the other.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal, get_args, get_origin, get_type_hints

import diffusers
import torch

from glc_ray.backbones import model_folder
from glc_ray.config import ModelSpec, SamplingSpec, Scheduler
from glc_ray.protocols import UserError

_NAMES: tuple[str, ...] = tuple(name for name in get_args(Scheduler) if name != "model")
_EULER = "FlowMatchEulerDiscreteScheduler"
_FLOW = ("DPMSolverMultistepScheduler", _EULER, "UniPCMultistepScheduler")
_VARIANCE_PRESERVING = tuple(name for name in _NAMES if name != _EULER)
_NOT_SCALAR = {"self", "trained_betas", "disable_corrector", "solver_p"}
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_MOST_TIMESTEPS = 100_000
"""Of training; models have 1,000."""
_BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")

Options = dict[str, bool | int | float | str]


def build(model: ModelSpec, sampling: SamplingSpec) -> Any:
    """The scheduler of diffusers that ``sampling`` names, with the model's settings and options.

    Raises:
        UserError: the model's own is not supported, the one named does not fit the model, or an
            option does not fit it. What diffusers itself refuses passes through.
    """
    config = model_folder.read_config(model_folder.resolve(model, weights=False), "scheduler")
    own_name = config.get("_class_name")
    if own_name not in _NAMES:
        raise UserError(
            f"model.path = {model.path!r}: scheduler/scheduler_config.json names {own_name}, which "
            f"is not supported; use a model with one of {', '.join(_NAMES)}"
        )
    own = getattr(diffusers, own_name).from_config(config)
    name = own_name if sampling.scheduler == "model" else sampling.scheduler
    fitting = _FLOW if is_flow(own) else _VARIANCE_PRESERVING
    if name not in fitting:
        raise UserError(
            f"sampling.scheduler = {name!r}: the model was trained for {_prediction_type(own)}, "
            f"which this scheduler cannot sample; use model or one of {', '.join(fitting)}"
        )
    chosen, options = getattr(diffusers, name), sampling.scheduler_options
    for key, value in options.items():
        _check_option(chosen, key, value)
    carried = {} if name == own_name else _carried(own, chosen, config, options)
    scheduler = chosen.from_config(config, **{**carried, **options})
    _check_settings(scheduler, own, options)
    return scheduler


def is_flow(scheduler: Any) -> bool:
    """Whether it is of the flow-matching family."""
    return bool(scheduler.config.get("use_flow_sigmas", not hasattr(scheduler, "alphas_cumprod")))


def draws_noise(scheduler: Any) -> bool:
    """Whether its steps draw noise; all others treat every frame by itself.

    What would look at a whole sample, dynamic thresholding, is refused by ``build``.
    """
    config = scheduler.config
    return bool(
        type(scheduler).__name__ == "CogVideoXDPMScheduler"
        or str(config.get("algorithm_type", "")).startswith("sde")
        or config.get("stochastic_sampling", False)
    )


def _prediction_type(scheduler: Any) -> str:
    return "flow_prediction" if is_flow(scheduler) else scheduler.config.prediction_type


def _settings(chosen: type) -> dict[str, inspect.Parameter]:
    """The settings of a class that a specification can give."""
    parameters = inspect.signature(chosen).parameters
    return {key: value for key, value in parameters.items() if key not in _NOT_SCALAR}


def _carried(own: Any, chosen: Any, config: dict[str, Any], options: Options) -> dict[str, Any]:
    """What the chosen class would not find, or read otherwise, in the model's configuration."""
    if is_flow(own):
        shift = config.get("shift" if type(own).__name__ == _EULER else "flow_shift", 1.0)
        carried: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True}
        carried |= {"flow_shift": shift, "shift": shift}
    else:
        # Latents have no range to clip to; CogVideoX's classes never do, whatever is written.
        carried = {"clip_sample": False} | _noise_levels(type(own), chosen, config, options)
    parameters = inspect.signature(chosen).parameters
    return {key: value for key, value in carried.items() if key in parameters}


def _noise_levels(
    own: Any, chosen: Any, config: dict[str, Any], options: Options
) -> dict[str, Any]:
    """The model's ᾱ as betas, where the chosen class would make others of the configuration.

    CogVideoX-2b shifts its noise levels (``snr_shift_scale``); other classes of diffusers pass over
    that, and would take its latents for more or less noisy than they are.
    """
    trained, made = (
        some.from_config(
            config, **{key: options[key] for key in options if key in _settings(some)}
        ).alphas_cumprod.double()
        for some in (own, chosen)
    )
    if torch.allclose(trained, made, rtol=1e-3, atol=1e-6):
        return {}
    alphas = torch.cat([trained[:1], trained[1:] / trained[:-1]])
    return {"trained_betas": (1 - alphas).tolist(), "snr_shift_scale": 1.0}


def _check_option(chosen: type, key: str, value: object) -> None:
    """Refuse an option that the class does not have, or a value of another kind than it takes."""
    settings = _settings(chosen)
    where = f"sampling.scheduler_options.{key} = {value!r}"
    if key not in settings:
        raise UserError(
            f"{where}: {chosen.__name__} has no such option; it has {', '.join(settings)}"
        )
    if choices := _choices(chosen, key):
        if value not in choices:
            raise UserError(f"{where}: {chosen.__name__} takes {', '.join(map(repr, choices))}")
        return
    kind = type(settings[key].default)
    if kind in _KINDS and type(value) is not kind and (kind, type(value)) != (float, int):
        raise UserError(f"{where}: {chosen.__name__} takes {_KINDS[kind]}")
    if key == "num_train_timesteps" and not 1 <= value <= _MOST_TIMESTEPS:  # type: ignore[operator]
        # Tables are made of so many rows, before anything else is looked at.
        raise UserError(
            f"{where}: must be from 1 to {_MOST_TIMESTEPS}; leave it out for the model's"
        )


def _choices(chosen: type, key: str) -> tuple[str, ...]:
    """The texts that an option may be, as far as the class declares them."""
    if key == "beta_schedule":
        return _BETA_SCHEDULES
    annotation = get_type_hints(chosen.__init__).get(key)  # type: ignore[misc]
    return get_args(annotation) if get_origin(annotation) is Literal else ()


def _check_settings(scheduler: Any, own: Any, options: Options) -> None:
    """Refuse settings with which the scheduler would not sample this model, or this loop fail."""
    allowed: dict[str, tuple[object, ...]] = {
        "prediction_type": (_prediction_type(own),),
        "use_flow_sigmas": (is_flow(own),),
        # Solvers that keep x̂0, not the noise, which a zero terminal SNR leaves undefined.
        "predict_x0": (True,),
        "algorithm_type": ("dpmsolver++", "sde-dpmsolver++"),
        # Pictures' range and size play no part here.
        "thresholding": (False,),
        "use_dynamic_shifting": (False,),
        # A learned variance would be cut off where latents have frames.
        "variance_type": (None,),
        # Of models whose time runs backwards.
        "invert_sigmas": (False,),
    }
    settings = _settings(type(scheduler))
    for key in (key for key in allowed if key in settings):
        value = scheduler.config[key]
        if value not in allowed[key]:
            where = f"sampling.scheduler_options.{key}"
            source = where if key in options else f"{key} in scheduler/scheduler_config.json"
            remedy = f"set {where} to that"
            if allowed[key] == (None,):
                # Which no option can say.
                remedy = "leave it out" if key in options else "choose another sampling.scheduler"
            raise UserError(
                f"{source} = {value!r}: {type(scheduler).__name__} can sample this model only with "
                f"{' or '.join(map(repr, allowed[key]))}; {remedy}"
            )
