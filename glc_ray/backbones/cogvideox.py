"""CogVideoX over diffusers: any folder in diffusers' format, the embedded model included."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from diffusers import CogVideoXPipeline, CogVideoXTransformer3DModel
from torch import Tensor
from transformers import T5EncoderModel

from glc_ray.backbones import cogvideox_vae, model_folder
from glc_ray.backbones.attention import AttentionMode
from glc_ray.backbones.cogvideox_attention import CogVideoXAttention
from glc_ray.backbones.cogvideox_vae import (
    CogVideoXFrameDecoder,
    check_tiling,
    load_frame_decoder,
)
from glc_ray.backbones.guided import GuidedModel
from glc_ray.config import DecodeSpec, ModelSpec, PipelineSpec
from glc_ray.protocols import Capability, DecoderFacts, ModelFacts, UserError


def facts(model: ModelSpec) -> ModelFacts:
    """What the configuration files of a CogVideoX model say.

    Raises:
        UserError: no such model, a part is missing, or a kind that is not supported.
    """
    folder = model_folder.resolve(model, weights=False)
    model_folder.check_class(folder, "CogVideoXPipeline", model)
    transformer = model_folder.read_config(folder, "transformer")
    vae = model_folder.read_config(folder, "vae")
    _check_kind(transformer, model)
    capabilities: set[Capability] = {
        "anchor_attention",
        "dynamic_guidance",
        "long_clips",
        "spectral_attention",
    }
    if transformer.get("use_rotary_positional_embeddings"):
        capabilities.add("windowed_attention")
    spatial_ratio = 2 ** (len(vae["block_out_channels"]) - 1)
    temporal_ratio = int(vae["temporal_compression_ratio"])
    height, width = (
        getattr(model, side) or transformer[f"sample_{side}"] * spatial_ratio
        for side in ("height", "width")
    )
    _check_size(model, transformer, spatial_ratio)
    return ModelFacts(
        window_size=_window_size(model, transformer, temporal_ratio),
        temporal_ratio=temporal_ratio,
        spatial_ratio=spatial_ratio,
        latent_channels=transformer["in_channels"],
        height=height,
        width=width,
        odd_latent_frames=True,
        # The VAE wants odd numbers, and so patches of two always lack one.
        leading_latent_frames=(transformer.get("patch_size_t") or 1) - 1,
        capabilities=frozenset(capabilities),
        vocabulary=model_folder.vocabulary(folder),
    )


def _window_size(model: ModelSpec, transformer: dict[str, Any], temporal_ratio: int) -> int:
    """Latent frames of the native clip, in whole patches: diffusers' pipeline pads it likewise."""
    clip_frames = model.clip_frames or transformer["sample_frames"]
    if (clip_frames - 1) % temporal_ratio:
        below = (clip_frames - 1) // temporal_ratio * temporal_ratio + 1
        raise UserError(
            f"model.clip_frames = {clip_frames}: must be {temporal_ratio}k+1; the nearest are "
            f"{below} and {below + temporal_ratio}"
        )
    latent_frames = (clip_frames - 1) // temporal_ratio + 1
    return latent_frames + -latent_frames % (transformer.get("patch_size_t") or 1)


def _check_kind(transformer: dict[str, Any], model: ModelSpec) -> None:
    """Refuse transformers that are more than text to video, or have other patches."""
    patch_size_t = transformer.get("patch_size_t")
    if patch_size_t not in (None, 1, 2):
        raise UserError(
            f"model.path = {model.path!r}: patches span {patch_size_t} latent frames "
            "(patch_size_t), and 1 or 2 are supported; use THUDM/CogVideoX-5b or "
            "THUDM/CogVideoX1.5-5B"
        )
    for_images = (
        ("ofs_embed_dim", transformer.get("ofs_embed_dim")),
        ("in_channels", transformer["in_channels"] != transformer["out_channels"]),
        (
            "use_learned_positional_embeddings",
            transformer.get("use_learned_positional_embeddings"),
        ),
    )
    for key, is_set in for_images:
        if is_set:
            raise UserError(
                f"model.path = {model.path!r}: an image-to-video model ({key} = "
                f"{transformer[key]!r} in transformer/config.json), which is not supported; use a "
                "text-to-video model such as THUDM/CogVideoX-5b or THUDM/CogVideoX1.5-5B"
            )


def _check_size(model: ModelSpec, transformer: dict[str, Any], spatial_ratio: int) -> None:
    """Refuse sizes that are no whole patches, or larger than the positions go."""
    step = spatial_ratio * transformer["patch_size"]
    for side in ("height", "width"):
        pixels = getattr(model, side)
        if pixels is None:
            continue
        if pixels % step:
            below = pixels // step * step
            nearest = f"are {below} and {below + step}" if below else f"is {step}"
            raise UserError(
                f"model.{side} = {pixels}: must be a multiple of {step} pixels; the nearest "
                f"{nearest}"
            )
        largest = transformer[f"sample_{side}"] * spatial_ratio
        # The rotary positions of CogVideoX 1.5 are cut out of those of the largest size.
        if transformer.get("patch_size_t") and pixels > largest:
            raise UserError(
                f"model.{side} = {pixels}: this model has positions for {largest} pixels; give no "
                "more than that"
            )


def check_decode(model: ModelSpec, decode: DecodeSpec) -> None:
    """Refuse decode options that the model's VAE cannot follow (UserError)."""
    check_tiling(model_folder.resolve(model, weights=False), decode)


def decoder_facts(model: ModelSpec, decode: DecodeSpec) -> DecoderFacts:
    """What is known of the VAE from its configuration alone."""
    return cogvideox_vae.decoder_facts(model_folder.resolve(model, weights=False), decode)


def frame_decoder(
    model: ModelSpec, decode: DecodeSpec, device: torch.device
) -> CogVideoXFrameDecoder:
    """Load the VAE alone."""
    return load_frame_decoder(
        model_folder.resolve(model),
        dtype=getattr(torch, decode.dtype or model.dtype),
        device=device,
        decode=decode,
    )


class CogVideoXBackbone(GuidedModel):
    """Guided predictions of a CogVideoX transformer."""

    transformer_class = CogVideoXTransformer3DModel
    text_encoder_class = T5EncoderModel
    text_pipeline_class = CogVideoXPipeline
    attention_class = CogVideoXAttention
    blocks = "transformer_blocks"
    text_in_sequence = True
    branches_together = True

    def __init__(self, pipeline: PipelineSpec, device: torch.device) -> None:
        super().__init__(facts(pipeline.model), pipeline, device)

    @property
    def text_shape(self) -> tuple[int, int]:
        """(tokens, width) of an encoded prompt."""
        config = self.transformer.config
        return config.max_text_seq_length, config.text_embed_dim

    def guided(
        self,
        clips_BFCHW: Tensor,
        timestep: float,
        text: dict[str, Tensor],
        guidance_scale: float | None,
        mode: AttentionMode | None,
    ) -> Tensor:
        """The guided model output of each clip, float32 on the model's device.

        Guidance as the pipeline does it: both branches in one batch, combined in float32.
        """
        branches = 1 if guidance_scale is None else 2
        hidden = torch.cat([clips_BFCHW] * branches)
        embeds_N2SD = text["prompt_embeds"][:, -branches:]
        with self.control.using(mode, self._token_grid(clips_BFCHW)):
            output = self.transformer(
                hidden_states=hidden,
                encoder_hidden_states=embeds_N2SD.transpose(0, 1).flatten(0, 1),
                timestep=torch.full((len(hidden),), timestep, device=self.device),
                image_rotary_emb=self._rotary(clips_BFCHW),
                return_dict=False,
            )[0].float()
        if guidance_scale is None:
            return output
        unconditional, conditional = output.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    def _token_grid(self, clips_BFCHW: Tensor) -> tuple[int, int, int]:
        config = self.transformer.config
        _, frames, _, height, width = clips_BFCHW.shape
        return (
            frames // (config.patch_size_t or 1),
            height // config.patch_size,
            width // config.patch_size,
        )

    def _rotary(self, clips_BFCHW: Tensor) -> tuple[Tensor, Tensor] | None:
        """Window-local rotary positions (5b); sincos models (2b) add theirs at the input."""
        if not self.transformer.config.use_rotary_positional_embeddings:
            return None
        _, frames, _, height, width = clips_BFCHW.shape
        ratio = self._positions.vae_scale_factor_spatial
        return self._positions._prepare_rotary_positional_embeddings(
            height * ratio, width * ratio, frames, self.device
        )

    @cached_property
    def _positions(self) -> CogVideoXPipeline:
        """For diffusers' own rotary positions; without a VAE it assumes a ratio of its own."""
        others = dict.fromkeys(("tokenizer", "text_encoder", "vae", "scheduler"))
        return CogVideoXPipeline(transformer=self.transformer, **others)


backbone = CogVideoXBackbone
