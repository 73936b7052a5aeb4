"""What a model costs, found without its weights: the real classes, with shapes and no values."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from glc_ray.backbones import model_folder, registry
from glc_ray.backbones.attention import RecordAnchor
from glc_ray.backbones.guided import GuidedModel
from glc_ray.config import ModelSpec, OptimizeSpec, PipelineSpec, SamplingSpec
from glc_ray.protocols import (
    AnchorAttention,
    Attention,
    Conditioning,
    Forward,
    SpectralAttention,
    WindowedAttention,
)

_META = torch.device("meta")


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
        self._pipeline = pipeline
        self._model = pipeline.model
        _, _, *self._clip_shape = backbone.facts.latents_shape(pipeline.video.num_frames)
        self._counts: dict[_Kind, _Count] = {}
        self._counted_frames = 1

    @property
    def weights_bytes(self) -> int:
        """Of all transformers of the model as they are kept: in 8 bits where layers are cast."""
        return sum(map(_parameter_bytes, self._stored))

    @property
    def weights_at_once_bytes(self) -> int:
        """Weights that are on the device at once; less than all of them with group offloading.

        Then an estimate: by blocks, what is in no block and two blocks (one computes, the next is
        fetched); by leaves, the two largest of one transformer.
        """
        level = self._pipeline.optimize.group_offload
        if level == "off":
            return self.weights_bytes
        return max(_group_bytes(part, by_block=level == "block_level") for part in self._stored)

    @property
    def vae_bytes(self) -> int:
        """Of the VAE in the decoder's dtype, its encoder included: it is loaded as a whole."""
        folder = model_folder.resolve(self._model, weights=False)
        _, name = model_folder.read_index(folder, self._model)["vae"]
        kind: Any = getattr(diffusers, name)
        with _META:
            vae = kind.from_config(kind.load_config(folder, subfolder="vae"))
        dtype: torch.dtype = getattr(torch, self._pipeline.decode.dtype or self._model.dtype)
        return sum(parameter.numel() for parameter in vae.parameters()) * dtype.itemsize

    @property
    def text_encoder_bytes(self) -> int:
        """Of the text encoder, which one worker loads to encode the prompts."""
        folder = model_folder.resolve(self._model, weights=False)
        _, kind = model_folder.read_index(folder, self._model)["text_encoder"]
        config = transformers.AutoConfig.from_pretrained(
            folder / "text_encoder", trust_remote_code=False
        )
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
        clips = len(forward.windows) + forward.rides_along
        if self._backbone.text_in_sequence:
            tokens += self._backbone.text_shape[0]
        if self._backbone.branches_together and forward.guidance_scale is not None:
            clips *= 2
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
            flops = self._long_clip_flops(one)
            frames = len(one.windows[0].frames)
            # Of the clip that was counted last, which may be shorter; in whole patches both.
            counted, rows, columns = self._backbone.control.grid
            tokens = counted * frames // self._counted_frames * rows * columns
            self._counts[kind] = _Count(flops, tokens)
        return self._counts[kind]

    def _long_clip_flops(self, forward: Forward) -> int:
        """Of one clip: where attention takes more operations with every frame, from three short
        clips.

        Once a clip is longer than what its tokens see, one more stride of it adds as many windows
        or neighbourhoods as the last did, and global attention grows by its square: a parabola in
        whole numbers, which three counts give exactly.
        """
        frames = len(forward.windows[0].frames)
        match forward.attention:
            case SpectralAttention(radius=radius):
                seen, stride = 2 * radius + 1, 1
            case WindowedAttention(window_size=seen, stride=stride):
                pass
            case _:
                return self._clip_flops(forward, frames)
        # Strides of token frames, which may span two latent frames.
        patch = self._config.get("patch_size_t") or 1
        step = patch * max(1, stride // patch)
        shortest = seen + 2 * patch + step
        shortest += (frames - shortest) % step
        if shortest + 2 * step >= frames:
            return self._clip_flops(forward, frames)
        least, middle, most = (
            self._clip_flops(forward, shortest + times * step) for times in range(3)
        )
        steps = (frames - shortest) // step
        bend = most - 2 * middle + least
        return least + steps * (middle - least) + steps * (steps - 1) // 2 * bend

    def _clip_flops(self, forward: Forward, frames: int) -> int:
        """Of one clip: its blocks are alike, so one is counted and multiplied.

        Attention by windows or by frequency takes thousands of operations a block, and minutes for
        all blocks of a large model.
        """
        window = replace(forward.windows[0], frames=tuple(range(frames)), weights=(1.0,) * frames)
        forward = replace(forward, windows=(window,))
        self._counted_frames = frames
        num_blocks = len(getattr(self._backbone.transformer, self._backbone.blocks))
        counts = []
        for kept in (1, 2):
            with self._first_blocks(kept), FlopCounterMode(display=False) as counter:
                self._backbone.predict(self._clip(forward), forward, Conditioning(self._text()))
            counts.append(counter.get_total_flops())
            if num_blocks == 1:
                return counts[0]
        first, both = counts
        return first + (num_blocks - 1) * (both - first)

    @contextmanager
    def _first_blocks(self, count: int) -> Iterator[None]:
        """Every transformer with its first ``count`` blocks alone."""
        name, transformers = self._backbone.blocks, self._backbone.transformers
        whole = [getattr(transformer, name) for transformer in transformers]
        try:
            for transformer, blocks in zip(transformers, whole, strict=True):
                setattr(transformer, name, blocks[:count])
            yield
        finally:
            for transformer, blocks in zip(transformers, whole, strict=True):
                setattr(transformer, name, blocks)

    @cached_property
    def _stored(self) -> list[nn.Module]:
        """The transformers with their weights in the dtypes in which they are kept."""
        casting = self._pipeline.optimize.layerwise_casting
        if casting == "off":
            return self._backbone.transformers
        # Copies: hooks would come with the cast, and casts with every forward that is counted.
        parts: list[Any] = deepcopy(self._backbone.transformers)
        for part in parts:
            part.enable_layerwise_casting(
                storage_dtype=getattr(torch, casting), compute_dtype=self._backbone.dtype
            )
        return parts

    def _clip(self, forward: Forward) -> Tensor:
        shape = (1, len(forward.windows[0].frames), *self._clip_shape)
        return torch.empty(shape, dtype=self._backbone.dtype, device=_META)

    def _text(self) -> dict[str, Tensor]:
        """Features of one prompt and one negative prompt."""
        shape = (1, 2, *self._backbone.text_shape)
        return {"prompt_embeds": torch.empty(shape, dtype=self._backbone.dtype, device=_META)}

    @property
    def _config(self) -> Any:
        return self._backbone.transformer.config


def scheduler_history(model: ModelSpec, sampling: SamplingSpec) -> int:
    """Tensors of the latents' size that the noise scheduler keeps from step to step."""
    folder = model_folder.resolve(model, weights=False)
    config = model_folder.read_config(folder, "scheduler") | sampling.scheduler_options
    name = sampling.scheduler if sampling.scheduler != "model" else config["_class_name"]
    if name == "CogVideoXDPMScheduler":
        return 1
    if name in ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler"):
        # Outputs of the model; UniPC also keeps what its last step began with and what it gave.
        return int(config.get("solver_order", 2)) + 2 * (name == "UniPCMultistepScheduler")
    return 0


def _parameter_bytes(module: nn.Module) -> int:
    return sum(parameter.nbytes for parameter in module.parameters())


def _group_bytes(transformer: nn.Module, *, by_block: bool) -> int:
    """Weights on the device at once, of a transformer that is offloaded in groups as diffusers
    forms them: the children of its lists of modules, or its leaves."""
    if by_block:
        lists = [part for part in transformer.children() if isinstance(part, nn.ModuleList)]
        blocks = [_parameter_bytes(block) for blocks in lists for block in blocks]
        return _parameter_bytes(transformer) - sum(blocks) + sum(sorted(blocks)[-2:])
    leaves = [_parameter_bytes(part) for part in transformer.modules() if not any(part.children())]
    return sum(sorted(leaves)[-2:])
