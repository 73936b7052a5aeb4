"""CogVideoX over diffusers: any folder in diffusers' format, the embedded model included."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from torch import Tensor
from transformers import AutoTokenizer, T5EncoderModel

from glc_ray.backbones import model_folder
from glc_ray.backbones.cogvideox_vae import (
    CogVideoXFrameDecoder,
    check_tiling,
    load_frame_decoder,
)
from glc_ray.config import DecodeSpec, ModelSpec
from glc_ray.protocols import Conditioning, ModelFacts, StepResult, UserError


def facts(model: ModelSpec) -> ModelFacts:
    """What the configuration files of a CogVideoX model say.

    Raises:
        UserError: no such model, a part is missing, or a kind that is not supported.
    """
    folder = model_folder.resolve(model, weights=False)
    model_folder.check_class(folder, "CogVideoXPipeline", model)
    transformer = model_folder.read_config(folder, "transformer")
    vae = model_folder.read_config(folder, "vae")
    if transformer.get("patch_size_t") is not None:
        raise UserError(
            f"model.path = {model.path!r}: CogVideoX 1.5 (patch_size_t) is not supported; "
            "use a CogVideoX 1.0 model such as THUDM/CogVideoX-2b or THUDM/CogVideoX-5b"
        )
    spatial_ratio = 2 ** (len(vae["block_out_channels"]) - 1)
    temporal_ratio = int(vae["temporal_compression_ratio"])
    return ModelFacts(
        window_size=(transformer["sample_frames"] - 1) // temporal_ratio + 1,
        temporal_ratio=temporal_ratio,
        spatial_ratio=spatial_ratio,
        latent_channels=transformer["in_channels"],
        height=transformer["sample_height"] * spatial_ratio,
        width=transformer["sample_width"] * spatial_ratio,
        odd_latent_frames=True,
        vocabulary=model_folder.vocabulary(folder),
    )


def check_decode(model: ModelSpec, decode: DecodeSpec) -> None:
    """Refuse decode options that the model's VAE cannot follow (UserError)."""
    check_tiling(model_folder.resolve(model, weights=False), decode.tiling)


def frame_decoder(
    model: ModelSpec, decode: DecodeSpec, device: torch.device
) -> CogVideoXFrameDecoder:
    """Load the VAE alone."""
    return load_frame_decoder(
        model_folder.resolve(model),
        dtype=getattr(torch, model.dtype),
        device=device,
        tiling=decode.tiling,
    )


class CogVideoXBackbone:
    """Guided predictions of a CogVideoX transformer."""

    def __init__(self, model: ModelSpec, device: torch.device) -> None:
        self.facts = facts(model)
        self.device = device
        self.dtype: torch.dtype = getattr(torch, model.dtype)
        self._folder = model_folder.resolve(model)
        self.transformer = CogVideoXTransformer3DModel.from_pretrained(
            self._folder, subfolder="transformer", dtype=self.dtype, use_safetensors=True
        )
        self.transformer.eval().requires_grad_(False).to(device)

    @torch.inference_mode()
    def encode_prompt(self, prompt: str, negative_prompt: str) -> Conditioning:
        """Text features on the CPU, ``prompt_embeds`` (2, S, D): [unconditional, conditional]."""
        text = self._text_pipeline
        # T5-XXL takes as much memory as the transformer: on the device only while it works.
        text.text_encoder.to(self.device)
        try:
            conditional, unconditional = text.encode_prompt(
                prompt,
                negative_prompt,
                do_classifier_free_guidance=True,
                max_sequence_length=self.transformer.config.max_text_seq_length,
                device=self.device,
            )
        finally:
            text.text_encoder.to("cpu")
        return Conditioning({"prompt_embeds": torch.cat([unconditional, conditional]).cpu()})

    @torch.inference_mode()
    def predict(
        self, clips_BFCHW: Tensor, timestep: int, conditioning: Conditioning, guidance_scale: float
    ) -> Tensor:
        """The guided model output of each clip, float32 on the model's device.

        Guidance as the pipeline does it: both branches in one batch, combined in float32.
        """
        embeds_2SD = conditioning.tensors["prompt_embeds"].to(self.device, self.dtype)
        clips = clips_BFCHW.to(self.device, self.dtype, non_blocking=True)
        branches = 2 if guidance_scale > 1 else 1
        hidden = torch.cat([clips] * branches)
        output = self.transformer(
            hidden_states=hidden,
            encoder_hidden_states=embeds_2SD[-branches:].repeat_interleave(len(clips), dim=0),
            timestep=torch.full((len(hidden),), timestep, device=self.device),
            image_rotary_emb=self._rotary(clips),
            return_dict=False,
        )[0].float()
        if branches == 1:
            return output
        unconditional, conditional = output.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    def _rotary(self, clips_BFCHW: Tensor) -> tuple[Tensor, Tensor] | None:
        """Window-local rotary positions (5b); sincos models (2b) add theirs at the input."""
        if not self.transformer.config.use_rotary_positional_embeddings:
            return None
        _, frames, _, height, width = clips_BFCHW.shape
        ratio = self.facts.spatial_ratio
        return self._bare_pipeline._prepare_rotary_positional_embeddings(
            height * ratio, width * ratio, frames, self.device
        )

    @cached_property
    def _text_pipeline(self) -> CogVideoXPipeline:
        """For diffusers' own ``encode_prompt``; the text encoder is loaded when first asked for."""
        return self._pipeline(
            tokenizer=AutoTokenizer.from_pretrained(self._folder / "tokenizer"),
            text_encoder=T5EncoderModel.from_pretrained(
                self._folder / "text_encoder", dtype=self.dtype, use_safetensors=True
            ),
        )

    @cached_property
    def _bare_pipeline(self) -> CogVideoXPipeline:
        """For diffusers' own rotary positions."""
        return self._pipeline(tokenizer=None, text_encoder=None)

    def _pipeline(self, **text_parts: Any) -> CogVideoXPipeline:
        pipeline = CogVideoXPipeline(
            vae=None, scheduler=None, transformer=self.transformer, **text_parts
        )
        # Without a VAE the pipeline would assume 8.
        pipeline.vae_scale_factor_spatial = self.facts.spatial_ratio
        return pipeline


class CogVideoXScheduler:
    """``CogVideoXDDIMScheduler`` for the loop: one step on the full latents, in float32."""

    def __init__(self, folder: Path, num_steps: int) -> None:
        self._scheduler = CogVideoXDDIMScheduler.from_pretrained(folder, subfolder="scheduler")
        self._scheduler.set_timesteps(num_steps)
        # For some numbers (61, 103, ...) rounding gives one step too many, at timestep -1.
        self.timesteps: tuple[int, ...] = tuple(self._scheduler.timesteps.tolist()[:num_steps])

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
            alpha_cumprod_prev=1.0 if is_last else float(self._scheduler.alphas_cumprod[previous]),
        )
