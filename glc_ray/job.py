"""From a request to a job that can run: every mistake is found here, before any work."""

from __future__ import annotations

import logging
import re
import unicodedata

from glc_ray.backbones import model_folder, registry
from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.forwards import ForwardPlanner
from glc_ray.media.decode_plan import DecodePlan, Kind, plan_decode
from glc_ray.methods import registry as methods
from glc_ray.pipeline_file import validate
from glc_ray.prompts import PromptLike, in_one_line, timeline
from glc_ray.protocols import Capability, DecoderFacts, ModelFacts, UserError

_LOG = logging.getLogger(__name__)
_NAME_LENGTH = 60
_INCAPABLE: dict[Capability, str] = {
    "long_clips": "--method {method}: needs one forward over the whole video, and {name} has "
    "positions for its native clip only; use glc, gen_l_video or freenoise (level prediction)",
    "anchor_attention": "glc.abam: {name} has no anchor attention; use --set glc.abam=false",
    "spectral_attention": "--method {method}: needs attention that {name} does not give; use glc, "
    "gen_l_video or freenoise",
    "windowed_attention": "freenoise.level = 'attention': {name} adds positions at its input, so "
    "windows cannot have their own within attention; use auto or prediction",
}
"""What to say where a backbone lacks a capability."""


def build_job(
    pipeline: PipelineSpec, prompt: PromptLike | None, seed: int, *, weights: bool = True
) -> VideoJob:
    """Check a request against its model and make the job of it.

    A timeline of one prompt makes the same job as the prompt itself.

    Args:
        pipeline: model and settings.
        prompt: a text, or ``(frame, text)`` pairs; None is the pipeline's own.
        seed: of all randomness.
        weights: the model is to run, so a folder of the user's must have its weights; False for
            what configuration files alone can tell.

    Raises:
        UserError: an empty prompt, a timeline that does not fit the video, a length that the model
            cannot give, a model that cannot be loaded, options that do not fit it.
    """
    prompts = timeline(pipeline, prompt)
    _check_seed(seed)
    if weights:
        model_folder.check_weights(pipeline.model)
    pipeline = pipeline.model_copy(update={"model": model_folder.pin(pipeline.model)})
    facts = registry.facts(pipeline.model)
    check_length(pipeline, facts)
    registry.check_decode(pipeline.model, pipeline.decode)
    registry.check_sampling(pipeline.model, pipeline.sampling)
    job: VideoJob = validate(
        VideoJob,
        {
            "prompt": in_one_line(prompts),
            "prompts": prompts if len(prompts) > 1 else (),
            "seed": seed,
            "pipeline": pipeline,
            "model_identity": model_folder.identity(pipeline.model),
        },
        where="job",
    )
    try:
        method = methods.create(job, facts)
    except ValueError as error:
        raise UserError(f"--method {pipeline.method}: {error}") from None
    check_capabilities(pipeline, method.requires, facts)
    check_part(pipeline, facts)
    decode_plan(pipeline)
    return job


def decode_plan(pipeline: PipelineSpec, num_videos: int = 1) -> DecodePlan:
    """How the decoders share the videos of a run, and the segments that the file is made of.

    Raises:
        UserError: it was said how, and cannot be.
    """
    model = registry.facts(pipeline.model)
    decoder = registry.decoder_facts(pipeline.model, pipeline.decode)
    return decode_plan_of(pipeline, model, decoder, num_videos=num_videos)


def decode_plan_of(
    pipeline: PipelineSpec,
    model: ModelFacts,
    decoder: DecoderFacts,
    *,
    num_videos: int = 1,
    kind: Kind | None = None,
) -> DecodePlan:
    """``decode_plan`` where the facts of the model are known.

    Args:
        pipeline: of a video.
        model, decoder: of its model and decode settings.
        num_videos: that are decoded in the run.
        kind: what decoders share, where that is decided already.
    """
    batch, num_latent_frames, *size = model.latents_shape(pipeline.video.num_frames)
    channels, height, width = size
    return plan_decode(
        decoder,
        (batch, num_latent_frames - model.leading_latent_frames, channels, height, width),
        pipeline.decode if kind is None else pipeline.decode.model_copy(update={"parallel": kind}),
        num_frames=pipeline.video.num_frames,
        num_decoders=pipeline.resources.decoders.count,
        num_videos=num_videos,
        frames=pipeline.encode.frames,
    )


def file_shape(pipeline: PipelineSpec, facts: ModelFacts) -> tuple[int, int, int]:
    """(frames, width, height) of the file: of the part that is encoded."""
    start, stop = pipeline.encode.frames or (0, pipeline.video.num_frames)
    _, _, width, height = pipeline.encode.crop or (0, 0, facts.width, facts.height)
    return stop - start, width, height


def check_part(pipeline: PipelineSpec, facts: ModelFacts) -> None:
    """Refuse frames and crops that lie outside of the video."""
    num_frames = pipeline.video.num_frames
    if pipeline.encode.frames is not None:
        start, stop = pipeline.encode.frames
        if not start < stop <= num_frames:
            raise UserError(
                f"encode.frames = [{start}, {stop}]: must be a first frame and a higher one after "
                f"the last, up to {num_frames}; leave it out for the whole video"
            )
    if pipeline.encode.crop is not None:
        left, top, width, height = pipeline.encode.crop
        if left + width > facts.width or top + height > facts.height:
            raise UserError(
                f"encode.crop = [{left}, {top}, {width}, {height}]: left, top, width and height "
                f"must lie within {facts.width} x {facts.height} pixels; leave it out for the "
                "whole picture"
            )


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**63:
        raise UserError(
            f"--seed {seed}: must be a whole number from 0 to {2**63 - 1}; leave it out for 0"
        )


def check_capabilities(
    pipeline: PipelineSpec, requires: frozenset[Capability], facts: ModelFacts
) -> None:
    """Refuse a method or an option that the model's backbone cannot follow."""
    for capability in sorted(requires - facts.capabilities):
        raise UserError(_INCAPABLE[capability].format(name=pipeline.name, method=pipeline.method))
    sampling = pipeline.sampling
    if sampling.dynamic_guidance and "dynamic_guidance" not in facts.capabilities:
        raise UserError(
            f"sampling.dynamic_guidance = True: {pipeline.name} was not made for guidance that "
            "changes with the timestep; leave the key out"
        )
    if sampling.guidance_scale_2 is not None and "second_guidance" not in facts.capabilities:
        raise UserError(
            f"sampling.guidance_scale_2 = {sampling.guidance_scale_2:g}: {pipeline.name} has one "
            "transformer; use sampling.guidance_scale"
        )
    registry.check_optimize(pipeline)


def check_length(pipeline: PipelineSpec, facts: ModelFacts) -> None:
    """Refuse lengths that are not the model's: 4k+1, from its native clip on."""
    num_frames, ratio = pipeline.video.num_frames, facts.temporal_ratio
    shortest = facts.num_frames(facts.window_size)
    if num_frames < shortest:
        raise UserError(
            f"--num-frames {num_frames}: shorter than the model's native clip; "
            f"{pipeline.name} renders {shortest} frames or more"
        )
    if (num_frames - 1) % ratio:
        below = (num_frames - 1) // ratio * ratio + 1
        raise UserError(
            f"--num-frames {num_frames}: must be {ratio}k+1 for {pipeline.name}; "
            f"the nearest are {below} and {below + ratio}"
        )


def unknown_words(text: str, facts: ModelFacts) -> list[str]:
    """Words of a text that a word-level model has never seen, in order."""
    if facts.vocabulary is None:
        return []
    words = re.findall(r"\w+", text.lower())
    return list(dict.fromkeys(word for word in words if word not in facts.vocabulary))


def warn_of_unknown_words(job: VideoJob) -> None:
    """Log a warning that lists the words that the model knows, where a prompt has others."""
    facts = registry.facts(job.pipeline.model)
    text = " ".join(prompt.text for prompt in job.timeline)
    if unknown := unknown_words(text, facts):
        _LOG.warning(
            "%s does not know %s. The words that it knows: %s",
            job.pipeline.name,
            ", ".join(map(repr, unknown)),
            " ".join(sorted(facts.vocabulary or ())),
        )


def warn_of_mixed_prompts(job: VideoJob) -> None:
    """Log a warning where a timeline cannot be seen: no window lies within one prompt."""
    if len(job.timeline) == 1:
        return
    facts = registry.facts(job.pipeline.model)
    plan = methods.create(job, facts).plan(0, 0.0)
    forwards = ForwardPlanner(job, facts).forwards(plan)
    if any(max(weights) == 1 for forward in forwards for weights in forward.prompt_weights):
        return
    _LOG.warning(
        "--method %s: every window spans several prompts, so every frame shows a mixture of them. "
        "Use glc or gen_l_video, whose windows of %d frames are the model's own, and leave more "
        "frames than that between prompts",
        job.pipeline.method,
        facts.num_frames(facts.window_size),
    )


def video_name(job: VideoJob) -> str:
    """A file name that says what is in it and is unique: the prompt and the specification hash.

    Letters and digits of any script are kept; everything else, path separators included, is not.
    """
    text = unicodedata.normalize("NFC", job.prompt).lower()
    slug = re.sub(r"[^\w]+|_+", "-", text).strip("-")
    while len(slug.encode()) > _NAME_LENGTH:
        slug = slug[:-1]
    return f"{slug.strip('-')}-{job.specification_hash[:8]}".lstrip("-")
