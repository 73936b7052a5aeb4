"""Backbones by name, imported when they are asked for: diffusers takes seconds to import."""

from __future__ import annotations

from functools import lru_cache
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from glc_ray.config import DecodeSpec, ModelSpec, PipelineSpec, SamplingSpec
from glc_ray.protocols import Backbone, DecoderFacts, FrameDecoder, ModelFacts, NoiseScheduler

if TYPE_CHECKING:
    import torch

_BACKBONES = {"cogvideox": "glc_ray.backbones.cogvideox", "wan": "glc_ray.backbones.wan"}
_REMEMBERED = 64
"""Decode settings whose facts are at hand."""


def facts(model: ModelSpec) -> ModelFacts:
    """What a model's configuration files say; UserError where it cannot be used."""
    return _adapter(model).facts(model)


def check_decode(model: ModelSpec, decode: DecodeSpec) -> None:
    """Refuse decode options that the model's VAE cannot follow (UserError); reads no weights."""
    _adapter(model).check_decode(model, decode)


def decoder_facts(model: ModelSpec, decode: DecodeSpec) -> DecoderFacts:
    """What the model's VAE decodes together, in which tiles and how far it sees back; reads no
    weights.

    Remembered for as long as the VAE's configuration stays the same: its modules are built to be
    asked, which takes longer than all the rest of a row of a catalog.
    """
    from glc_ray.backbones import model_folder

    config = model_folder.resolve(model, weights=False) / "vae" / "config.json"
    try:
        stored = config.read_bytes()
    except OSError:
        # The adapter says what is wrong with it.
        return _adapter(model).decoder_facts(model, decode)
    return _decoder_facts(model, decode, stored)


@lru_cache(maxsize=_REMEMBERED)
def _decoder_facts(model: ModelSpec, decode: DecodeSpec, config: bytes) -> DecoderFacts:
    return _adapter(model).decoder_facts(model, decode)


def check_sampling(model: ModelSpec, sampling: SamplingSpec) -> None:
    """Refuse a noise scheduler that cannot sample the model (UserError); reads no weights."""
    from glc_ray.backbones import scheduler

    scheduler.check(model, sampling)


def check_optimize(pipeline: PipelineSpec) -> None:
    """Refuse memory and speed options that the model cannot follow (UserError)."""
    from glc_ray.backbones import model_folder, optimize

    optimize.check(
        model_folder.resolve(pipeline.model, weights=False),
        pipeline.optimize,
        on_gpu=pipeline.resources.denoisers.num_gpus > 0,
    )


def load_backbone(pipeline: PipelineSpec, device: torch.device) -> Backbone:
    """Load the denoising model of a pipeline onto ``device``."""
    return _adapter(pipeline.model).backbone(pipeline, device)


def load_scheduler(
    model: ModelSpec, sampling: SamplingSpec, generator: torch.Generator
) -> NoiseScheduler:
    """The noise scheduler that ``sampling`` names, for this model; reads no weights.

    Raises:
        UserError: it does not fit the model.
    """
    from glc_ray.backbones import scheduler

    return scheduler.load(model, sampling, generator)


def load_frame_decoder(model: ModelSpec, decode: DecodeSpec, device: torch.device) -> FrameDecoder:
    """Load the VAE alone onto ``device``."""
    return _adapter(model).frame_decoder(model, decode, device)


def _adapter(model: ModelSpec) -> ModuleType:
    return import_module(_BACKBONES[model.backbone])
