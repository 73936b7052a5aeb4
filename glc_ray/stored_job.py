"""From stored latents to a job that decodes and encodes them again, in another way."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from glc_ray.backbones import model_folder, registry
from glc_ray.config import ModelSpec, PipelineSpec, VideoJob
from glc_ray.job import check_part, decode_plan
from glc_ray.pipeline_file import Override, set_key, validate
from glc_ray.prompts import PromptLike
from glc_ray.protocols import UserError
from glc_ray.store.latents import read_header
from glc_ray.store.storage import without_secrets

_LOG = logging.getLogger(__name__)
_NOT_OF_LATENTS = (
    "decode.",
    "encode.",
    "resources.",
    "video.fps",
    "model.path",
    "model.revision",
    "preview.",
)
"""Keys that latents do not depend on, or the beginnings of such."""


def job_from_latents(
    latents_path: str,
    overrides: Iterable[tuple[str, Any] | Override],
    *,
    prompt: PromptLike | None = None,
    pipeline: str | None = None,
    seed: int | None = None,
) -> VideoJob:
    """The job of stored latents, decoded and encoded in another way.

    Args:
        latents_path: a file that ``--keep-latents`` wrote, local or a URI.
        overrides: of decode, encode and resources, of video.fps, and of where the model lies;
            others may only say what is so already.
        prompt, pipeline: that were asked for, though the file has its own.
        seed: that was asked for, which must be the file's.

    Raises:
        UserError: the file cannot be used, something was asked for that would change the latents,
            or the model is not the one that made them.
    """
    stored, shown = _stored_job(latents_path), without_secrets(latents_path)
    if prompt is not None:
        raise UserError(
            f"--prompt {prompt!r}: --from-latents {shown} has its own; leave the prompt "
            "out, or render the video anew"
        )
    if pipeline is not None:
        raise UserError(
            f"--pipeline {pipeline}: --from-latents {shown} has its own; leave it out and "
            "--set single keys, or render the video anew"
        )
    if seed not in (None, stored.seed):
        raise UserError(
            f"--seed {seed}: --from-latents {shown} was made with {stored.seed}; leave it "
            "out, or render the video anew"
        )
    asked = [Override(*override) for override in overrides]
    data = stored.pipeline.model_dump()
    for key, value, _ in asked:
        set_key(data, key, value)
    typed = {key: text for key, _, text in asked}
    spec = validate(PipelineSpec, data, where=f"pipeline {data['name']}", typed=typed)
    _check_same_latents(asked, spec, stored.pipeline, shown)
    _check_same_model(spec.model, stored.model_identity, shown)
    spec = spec.model_copy(update={"model": model_folder.pin(spec.model)})
    registry.check_decode(spec.model, spec.decode)
    check_part(spec, registry.facts(spec.model))
    decode_plan(spec)
    return stored.model_copy(update={"pipeline": spec})


def _stored_job(latents_path: str) -> VideoJob:
    try:
        return VideoJob.model_validate_json(read_header(None, latents_path).metadata["job"])
    except (KeyError, ValidationError):
        raise UserError(
            f"--from-latents {without_secrets(latents_path)}: does not say how it was made in a "
            "way that this glc-ray understands; use the version that wrote it, or render the video "
            "anew"
        ) from None


def _check_same_latents(
    asked: Iterable[Override], spec: PipelineSpec, stored: PipelineSpec, shown: str
) -> None:
    """Refuse to be asked for other latents than those that are there."""
    for key, value, typed in asked:
        made_with = _value(stored, key)
        if key.startswith(_NOT_OF_LATENTS) or _value(spec, key) == made_with:
            continue
        raise UserError(
            f"--from-latents {shown}: {typed or f'{key} = {value!r}'} would change the "
            f"latents, which were made with {made_with!r}; set keys of decode, encode and "
            "resources, or video.fps, or render the video anew"
        )


def _value(spec: PipelineSpec, key: str) -> Any:
    """What is at a dotted key; None where there is nothing."""
    found: Any = spec
    for part in key.split("."):
        found = found.get(part) if isinstance(found, dict) else getattr(found, part, None)
    return found


def _check_same_model(model: ModelSpec, made_by: str, shown: str) -> None:
    """Refuse a model that is not the one that made the latents: its VAE is another's."""
    found = model_folder.identity(model)
    if found == made_by:
        return
    if ("@" in found) != ("@" in made_by):
        _LOG.warning(
            "--from-latents %s: it cannot be told whether the model at %s is the one that made "
            "them: one of the two is known by its commit on the hub, the other by its files",
            shown,
            model.path,
        )
        return
    raise UserError(
        f"--from-latents {shown}: model.path = {model.path!r} is another model than the one "
        "that made these latents (its files differ); give a folder that has that one, --set "
        "model.path=FOLDER, or render the video anew"
    )
