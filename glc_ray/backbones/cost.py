"""What a model costs, found without its weights: the real classes, with shapes and no values."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from glc_ray.backbones import model_folder, registry
from glc_ray.backbones.attention import RecordAnchor
from glc_ray.backbones.guided import GuidedModel
from glc_ray.config import ModelSpec, OptimizeSpec, PipelineSpec, SamplingSpec
from glc_ray.protocols import AnchorAttention, Attention, Conditioning, Forward

_META = torch.device("meta")
_WAN_TEXT_TOKENS = 512
"""The length to which Wan's pipeline pads a prompt."""


@dataclass(frozen=True)
class _Kind:
    """A forward of one clip is counted once for each of these."""

    clip_frames: int
    attention: Attention | None
    is_guided: bool


@dataclass(frozen=True)
class _Count:
    flops: int
    video_tokens: int


class ModelCost:
    """Floating-point operations and bytes of one pipeline's denoising model.

    Args:
        pipeline: its model's configuration files are read, and no weights.

    Raises:
        UserError: the model cannot be used.
    """

    def __init__(self, pipeline: PipelineSpec) -> None:
        # What only speeds up a real device has no meaning for shapes.
        plain = pipeline.model_copy(update={"optimize": OptimizeSpec()})
        backbone = registry.load_backbone(plain, _META)
        assert isinstance(backbone, GuidedModel)
        self._backbone = backbone
        self._model = pipeline.model
        _, _, *self._clip_shape = backbone.facts.latents_shape(pipeline.video.num_frames)
        self._counts: dict[_Kind, _Count] = {}

    @property
    def weights_bytes(self) -> int:
        """Of all transformers of the model, in their dtype."""
        parts = vars(self._backbone).values()
        return sum(_parameter_bytes(part) for part in parts if isinstance(part, nn.Module))

    @property
    def text_encoder_bytes(self) -> int:
        """Of the text encoder, which one worker loads to encode the prompts."""
        folder = model_folder.resolve(self._model, weights=False)
        _, kind = model_folder.read_index(folder, self._model)["text_encoder"]
        config = transformers.AutoConfig.from_pretrained(folder / "text_encoder")
        with _META:
            encoder = getattr(transformers, kind)(config)
        return _parameter_bytes(encoder.to(self._backbone.dtype))

    def flops(self, forward: Forward) -> int:
        """Floating-point operations of a forward of all its clips, both guidance branches.

        A multiplication and an addition are two. Counted by torch over the transformer's matrix
        products, attention among them; what is done element by element is not counted (under 1%),
        so the blend with an anchor adds nothing. The anchor of ``cache: recompute`` is not one of
        the clips.
        """
        return self._count(forward).flops * len(forward.windows)

    def anchor_cache_bytes(self, forward: Forward) -> int:
        """Keys and values that an anchor leaves in a worker's cache, exactly.

        layers x 2 x guidance branches x video tokens x inner_dim x bytes of the dtype.
        """
        mode = RecordAnchor(on_cpu=False)
        with torch.inference_mode():
            self._backbone.guided(
                self._clip(forward), forward.timestep, self._text(), forward.guidance_scale, mode
            )
        return sum(key.nbytes + value.nbytes for key, value in mode.states.values())

    def activation_bytes(self, forward: Forward) -> int:
        """An estimate of what a batch's forward needs beside the weights.

        tokens x inner_dim x bytes x (4 + 2 x feed-forward factor): most is alive at once within
        the feed-forward of a block, where there are the residual stream, the attention's output,
        the normalised stream, the concatenation of text and video, and the hidden layer before and
        after its activation. For attention whose scores are never whole in memory, as torch's on
        GPUs. Tokens are those of all clips, and of guidance branches that run together.
        """
        config = self._config
        inner_dim = config.num_attention_heads * config.attention_head_dim
        factor = config.get("ffn_dim", 4 * inner_dim) / inner_dim
        tokens = self._count(forward).video_tokens
        clips = len(forward.windows) + _rides_along(forward)
        if self._model.backbone == "cogvideox":
            # Text is part of the sequence, and both branches are one batch.
            tokens += self._text_shape[0]
            clips *= _branches(forward)
        values = clips * tokens * inner_dim * (4 + 2 * factor)
        return round(values) * self._backbone.dtype.itemsize

    def _count(self, forward: Forward) -> _Count:
        """Of the forward's first clip."""
        clip_frames = {len(window.frames) for window in forward.windows}
        assert len(clip_frames) == 1, "clips of one batch are equally long"
        attention = forward.attention
        if isinstance(attention, AnchorAttention):
            # The same matrix products as the model's own.
            attention = None
        kind = _Kind(clip_frames.pop(), attention, forward.guidance_scale is not None)
        if kind not in self._counts:
            one = replace(
                forward,
                windows=forward.windows[:1],
                prompt_weights=((1.0,),),
                attention=attention,
                anchor=None,
            )
            with FlopCounterMode(display=False) as counter:
                self._backbone.predict(self._clip(forward), one, Conditioning(self._text()))
            tokens = math.prod(self._backbone.control.grid)
            self._counts[kind] = _Count(counter.get_total_flops(), tokens)
        return self._counts[kind]

    def _clip(self, forward: Forward) -> Tensor:
        shape = (1, len(forward.windows[0].frames), *self._clip_shape)
        return torch.empty(shape, dtype=self._backbone.dtype, device=_META)

    def _text(self) -> dict[str, Tensor]:
        """Features of one prompt and one negative prompt."""
        shape = (1, 2, *self._text_shape)
        return {"prompt_embeds": torch.empty(shape, dtype=self._backbone.dtype, device=_META)}

    @property
    def _config(self) -> Any:
        return self._backbone.transformer.config  # type: ignore[attr-defined]

    @property
    def _text_shape(self) -> tuple[int, int]:
        """(tokens, width) of an encoded prompt."""
        if self._model.backbone == "cogvideox":
            return self._config.max_text_seq_length, self._config.text_embed_dim
        return _WAN_TEXT_TOKENS, self._config.text_dim


def scheduler_history(model: ModelSpec, sampling: SamplingSpec) -> int:
    """Tensors of the latents' size that the noise scheduler keeps from step to step."""
    folder = model_folder.resolve(model, weights=False)
    config = model_folder.read_config(folder, "scheduler") | sampling.scheduler_options
    name = sampling.scheduler if sampling.scheduler != "model" else config["_class_name"]
    if name == "CogVideoXDPMScheduler":
        return 1
    if name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        # Outputs of the model; UniPC also keeps the sample before its correction.
        return int(config.get("solver_order", 2)) + (name == "UniPCMultistepScheduler")
    return 0


def _branches(forward: Forward) -> Literal[1, 2]:
    return 1 if forward.guidance_scale is None else 2


def _rides_along(forward: Forward) -> bool:
    attention = forward.attention
    return (
        isinstance(attention, AnchorAttention)
        and attention.cache == "recompute"
        and not forward.is_anchor
    )


def _parameter_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())
