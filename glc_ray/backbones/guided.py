"""What all backbones share: encoded prompts, anchors, modes of attention.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width,
``N`` clips, ``P`` prompts, ``S`` text tokens, ``D`` text features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import AutoTokenizer

from glc_ray.backbones import model_folder
from glc_ray.backbones.attention import (
    AnchorStates,
    AttentionControl,
    AttentionMode,
    BlendAnchor,
    BlendFirst,
    RecordAnchor,
    SpectralMode,
    WindowedMode,
)
from glc_ray.backbones.loading import load_transformer
from glc_ray.backbones.optimize import optimize, weights_device
from glc_ray.backbones.prompt_features import PromptFeatures
from glc_ray.config import OptimizeSpec, PipelineSpec
from glc_ray.protocols import (
    AnchorAttention,
    Conditioning,
    Forward,
    ModelFacts,
    SpectralAttention,
    WindowedAttention,
)


class AnchorCache:
    """The keys and values of one anchor: of a video, a step and a path.

    Another takes its place: a worker stays with its path while that has windows, and steps never
    come back.
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[str, int, str], AnchorStates] | None = None

    def get(self, key: tuple[str, int, str]) -> AnchorStates | None:
        """The states of (video, step, path), if they are kept."""
        return self._kept[1] if self._kept is not None and self._kept[0] == key else None

    def clear(self) -> None:
        """Let go of it, so that there is room for others before they are computed."""
        self._kept = None

    def put(self, key: tuple[str, int, str], states: AnchorStates) -> None:
        """Keep the states of (video, step, path)."""
        self._kept = key, states


class GuidedModel(ABC):
    """A `glc_ray.protocols.Backbone` but for the transformer's own way of being called."""

    transformer_class: ClassVar[type[Any]]
    text_encoder_class: ClassVar[type[Any]]
    text_pipeline_class: ClassVar[type[Any]]
    """diffusers' pipeline of the model."""
    attention_class: ClassVar[type[Any]]
    """The self-attention processor that asks ``control``, around a stock one."""
    blocks: ClassVar[str]
    """Where the transformer has the blocks that it repeats."""
    text_in_sequence: ClassVar[bool]
    """Text tokens go through the blocks with those of the video."""
    branches_together: ClassVar[bool]
    """Both branches of guidance are one batch, not two forwards."""

    def __init__(self, facts: ModelFacts, pipeline: PipelineSpec, device: torch.device) -> None:
        """Load the transformer, or two that share the noise levels.

        Args:
            facts: of the model.
            pipeline: which model, and how it is optimized.
            device: where it computes; ``meta`` reads no weights.
        """
        self.facts = facts
        self.device = device
        self.dtype: torch.dtype = getattr(torch, pipeline.model.dtype)
        self.control = AttentionControl()
        self.anchor_forwards = 0
        self._anchors = AnchorCache()
        self._features = PromptFeatures(device, self.dtype)
        self._folder = model_folder.resolve(pipeline.model, weights=device.type != "meta")
        parts = ["transformer", *(["transformer_2"] if facts.low_noise_below is not None else [])]
        self.transformers = [self._load(part, pipeline.optimize) for part in parts]
        self.transformer = self.transformers[0]

    def _load(self, part: str, options: OptimizeSpec) -> Any:
        kind, device = self.transformer_class, weights_device(options, self.device)
        transformer = load_transformer(kind, self._folder, part, dtype=self.dtype, device=device)
        # For torch.compile: not every class of diffusers names its blocks.
        transformer._repeated_blocks = [type(getattr(transformer, self.blocks)[0]).__name__]
        optimize(transformer, options, self.device, self.dtype)
        processors = {
            # diffusers' name of self-attention, beside which some models have one to the text.
            name: self.attention_class(name, self.control, stock) if ".attn1." in name else stock
            for name, stock in transformer.attn_processors.items()
        }
        transformer.set_attn_processor(processors)
        return transformer

    @cached_property
    def text_pipeline(self) -> Any:
        """For diffusers' own ``encode_prompt``; the text encoder is loaded when first asked for."""
        return self.text_pipeline_class(
            tokenizer=AutoTokenizer.from_pretrained(
                self._folder / "tokenizer", trust_remote_code=False
            ),
            text_encoder=self.text_encoder_class.from_pretrained(
                self._folder / "text_encoder", dtype=self.dtype, use_safetensors=True
            ),
            vae=None,
            transformer=None,
            scheduler=None,
        )

    @property
    @abstractmethod
    def text_shape(self) -> tuple[int, int]:
        """(tokens, width) of an encoded prompt, which is cut and padded to this length."""

    @torch.inference_mode()
    def encode_prompts(self, prompts: tuple[str, ...], negative_prompt: str) -> Conditioning:
        """Text features on the CPU, ``prompt_embeds`` (P, 2, S, D): [unconditional, conditional].

        By diffusers' own ``encode_prompt``. The text encoder may take more memory than the
        transformer: it is on the device only while it works, and anchors make room for it (those
        of a video in flight are computed again). Each prompt by itself, the negative one once.
        """
        self._anchors.clear()
        self._features.clear()
        text = self.text_pipeline
        text.text_encoder.to(self.device)
        rows, unconditional = [], None
        try:
            for prompt in prompts:
                conditional, unconditional = text.encode_prompt(
                    prompt,
                    negative_prompt,
                    do_classifier_free_guidance=True,
                    negative_prompt_embeds=unconditional,
                    max_sequence_length=self.text_shape[0],
                    device=self.device,
                )
                rows.append(torch.cat([unconditional, conditional]).cpu())
        finally:
            text.text_encoder.to("cpu")
            if self.device.type == "cuda":
                # Other processes may have a share of the same GPU, and torch would keep it all.
                torch.cuda.empty_cache()
        return Conditioning({"prompt_embeds": torch.stack(rows)})

    @abstractmethod
    def guided(
        self,
        clips_BFCHW: Tensor,
        timestep: float,
        text: dict[str, Tensor],
        guidance_scale: float | None,
        mode: AttentionMode | None,
    ) -> Tensor:
        """The guided model output of each clip, float32.

        Args:
            clips_BFCHW: (N, L, C, H, W) on the model's device, in its dtype.
            timestep: the scheduler's value.
            text: text features of each clip, each (N, 2, ...), on the model's device.
            guidance_scale: None for the conditional branch alone.
            mode: of the self-attention layers.
        """

    @torch.inference_mode()
    def predict(
        self,
        clips_BFCHW: Tensor,
        forward: Forward,
        conditioning: Conditioning,
        anchor_BFCHW: Tensor | None = None,
    ) -> Tensor:
        """The guided model output of each clip, float32 on the model's device."""
        options = forward.attention
        if isinstance(options, AnchorAttention):
            return self._with_anchor(clips_BFCHW, forward, conditioning, anchor_BFCHW, options)
        return self._run(clips_BFCHW, forward, conditioning, self._mode(forward))

    def _run(
        self,
        clips_BFCHW: Tensor,
        forward: Forward,
        conditioning: Conditioning,
        mode: AttentionMode | None,
    ) -> Tensor:
        clips_BFCHW = clips_BFCHW.to(self.device, self.dtype, non_blocking=True)
        text = self._features.of(forward, conditioning)
        return self.guided(clips_BFCHW, forward.timestep, text, forward.guidance_scale, mode)

    def _mode(self, forward: Forward) -> AttentionMode | None:
        num_latent_frames = len(forward.windows[0].frames)
        match forward.attention:
            case SpectralAttention() as options:
                return SpectralMode(options, num_latent_frames)
            case WindowedAttention() as options:
                return WindowedMode(options, num_latent_frames)
            case _:
                return None

    def _with_anchor(
        self,
        clips_BFCHW: Tensor,
        forward: Forward,
        conditioning: Conditioning,
        anchor_BFCHW: Tensor | None,
        options: AnchorAttention,
    ) -> Tensor:
        if forward.anchor is None:
            return self._run(clips_BFCHW, forward, conditioning, None)
        if forward.is_anchor:
            return self._record(clips_BFCHW, forward, conditioning, options)
        assert anchor_BFCHW is not None, "a clip without its anchor"
        if forward.rides_along:
            self.anchor_forwards += 1
            together = replace(
                forward,
                windows=(forward.anchor, *forward.windows),
                prompt_weights=(forward.anchor_prompt_weights, *forward.prompt_weights),
            )
            # Each by itself, since what is joined of pinned memory is not pinned.
            parts = [
                part.to(self.device, self.dtype, non_blocking=True)
                for part in (anchor_BFCHW, clips_BFCHW)
            ]
            clips_BFCHW = torch.cat(parts)
            mode = BlendFirst(len(clips_BFCHW), options)
            return self._run(clips_BFCHW, together, conditioning, mode)[1:]
        states = self._anchors.get(forward.anchor_key)
        if states is None:
            self.anchor_forwards += 1
            alone = replace(
                forward, windows=(forward.anchor,), prompt_weights=(forward.anchor_prompt_weights,)
            )
            self._record(anchor_BFCHW, alone, conditioning, options)
            states = self._anchors.get(forward.anchor_key)
            assert states is not None
        return self._run(clips_BFCHW, forward, conditioning, BlendAnchor(states, options))

    def _record(
        self,
        clips_BFCHW: Tensor,
        forward: Forward,
        conditioning: Conditioning,
        options: AnchorAttention,
    ) -> Tensor:
        if options.cache == "recompute":
            return self._run(clips_BFCHW, forward, conditioning, None)
        self._anchors.clear()
        mode = RecordAnchor(on_cpu=options.cache == "cpu")
        prediction = self._run(clips_BFCHW, forward, conditioning, mode)
        self._anchors.put(forward.anchor_key, mode.states)
        return prediction
