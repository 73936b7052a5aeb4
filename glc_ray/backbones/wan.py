"""Wan 2.1 and 2.2 text-to-video over diffusers: any folder of its ``WanPipeline``.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width,
``N`` clips, ``P`` prompts, ``S`` text tokens, ``D`` text features. The transformer takes BCFHW.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from torch import Tensor
from transformers import UMT5EncoderModel

from glc_ray.backbones import model_folder, wan_vae
from glc_ray.backbones.attention import AttentionMode
from glc_ray.backbones.guided import GuidedModel
from glc_ray.backbones.wan_attention import WanSelfAttention
from glc_ray.backbones.wan_vae import WanFrameDecoder, check_tiling, load_frame_decoder
from glc_ray.config import DecodeSpec, ModelSpec, PipelineSpec
from glc_ray.protocols import Capability, DecoderFacts, ModelFacts, UserError


def facts(model: ModelSpec) -> ModelFacts:
    """What the configuration files of a Wan model say, with the native clip of the specification.

    Raises:
        UserError: no such model, a part is missing, a kind that is not supported, or a native clip
            that is missing or that the model cannot give.
    """
    folder = model_folder.resolve(model, weights=False)
    model_folder.check_class(folder, "WanPipeline", model)
    index = model_folder.read_index(folder, model)
    transformer = model_folder.read_config(folder, "transformer") if _has(index) else None
    vae = model_folder.read_config(folder, "vae")
    # Files older than these keys mean the values of Wan 2.1.
    temporal_ratio = int(vae.get("scale_factor_temporal", 4))
    spatial_ratio = int(vae.get("scale_factor_spatial", 8))
    latent_channels = int(vae.get("z_dim", 16))
    _check_kind(model, index, transformer, latent_channels)
    assert transformer is not None
    _, patch_height, patch_width = transformer["patch_size"]
    clip_frames, height, width = _native_clip(
        model, temporal_ratio, spatial_ratio * patch_height, spatial_ratio * patch_width
    )
    return ModelFacts(
        window_size=(clip_frames - 1) // temporal_ratio + 1,
        temporal_ratio=temporal_ratio,
        spatial_ratio=spatial_ratio,
        latent_channels=latent_channels,
        height=height,
        width=width,
        max_clip_frames=int(transformer.get("rope_max_seq_len", 1024)),
        channels_first_noise=True,
        low_noise_below=_low_noise_below(folder, index),
        capabilities=_capabilities(index),
        vocabulary=model_folder.vocabulary(folder),
    )


def check_decode(model: ModelSpec, decode: DecodeSpec) -> None:
    """Refuse decode options that the model's VAE cannot follow (UserError)."""
    check_tiling(model_folder.resolve(model, weights=False), decode)


def decoder_facts(model: ModelSpec, decode: DecodeSpec) -> DecoderFacts:
    """What is known of the VAE from its configuration alone."""
    return wan_vae.decoder_facts(model_folder.resolve(model, weights=False), decode)


def frame_decoder(model: ModelSpec, decode: DecodeSpec, device: torch.device) -> WanFrameDecoder:
    """Load the VAE alone."""
    dtype = getattr(torch, decode.dtype or model.dtype)
    return load_frame_decoder(model_folder.resolve(model), decode, dtype=dtype, device=device)


class WanBackbone(GuidedModel):
    """Guided predictions of a Wan transformer, or of two that share the noise levels (Wan 2.2).

    Both stay on the device, since the windows of a worker may belong to videos at different steps:
    Wan2.2-A14B takes twice the memory of a single 14B model.
    """

    transformer_class = WanTransformer3DModel
    text_encoder_class = UMT5EncoderModel
    text_pipeline_class = WanPipeline
    attention_class = WanSelfAttention
    blocks = "blocks"
    text_in_sequence = False
    branches_together = False

    def __init__(self, pipeline: PipelineSpec, device: torch.device) -> None:
        super().__init__(facts(pipeline.model), pipeline, device)

    @property
    def text_shape(self) -> tuple[int, int]:
        """(tokens, width) of an encoded prompt; `WanPipeline` pads to 512 tokens by default."""
        return 512, self.transformer.config.text_dim

    def guided(
        self,
        clips_BFCHW: Tensor,
        timestep: float,
        text: dict[str, Tensor],
        guidance_scale: float | None,
        mode: AttentionMode | None,
    ) -> Tensor:
        """The guided model output of each clip, float32 on the model's device.

        Guidance as the pipeline does it: each branch in a forward of its own, combined in the
        transformer's dtype.
        """
        unconditional_NSD, conditional_NSD = text["prompt_embeds"].unbind(1)
        conditional = self._forward(clips_BFCHW, timestep, conditional_NSD, mode, "cond")
        if guidance_scale is None:
            return conditional.float()
        unconditional = self._forward(clips_BFCHW, timestep, unconditional_NSD, mode, "uncond")
        return (unconditional + guidance_scale * (conditional - unconditional)).float()

    def _forward(
        self,
        clips_BFCHW: Tensor,
        timestep: float,
        embeds_NSD: Tensor,
        mode: AttentionMode | None,
        branch: str,
    ) -> Tensor:
        """One guidance branch: (N, L, C, H, W) in the transformer's dtype."""
        transformer = self._transformer_at(timestep)
        frames_rows_columns = (clips_BFCHW.shape[axis] for axis in (1, 3, 4))
        token_frames, rows, columns = (
            length // patch
            for length, patch in zip(
                frames_rows_columns, transformer.config.patch_size, strict=True
            )
        )
        with self.control.using(mode, (token_frames, rows, columns), branch):
            output_BCFHW = transformer(
                hidden_states=clips_BFCHW.transpose(1, 2).contiguous(),
                # Its sinusoids are computed in float32, whatever the scheduler counts in.
                timestep=torch.full((len(clips_BFCHW),), timestep, device=self.device),
                encoder_hidden_states=embeds_NSD,
                return_dict=False,
            )[0]
        return output_BCFHW.transpose(1, 2)

    def _transformer_at(self, timestep: float) -> Any:
        boundary = self.facts.low_noise_below
        return self.transformers[0 if boundary is None or timestep >= boundary else 1]


def _has(index: dict[str, Any], part: str = "transformer") -> bool:
    return any(index.get(part) or ())


def _check_kind(
    model: ModelSpec,
    index: dict[str, Any],
    transformer: dict[str, Any] | None,
    latent_channels: int,
) -> None:
    """Refuse a Wan model whose loop is not that of text to video (UserError)."""
    use = "use a text-to-video model such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    if index.get("expand_timesteps"):
        raise UserError(
            f"model.path = {model.path!r}: a timestep for each token (expand_timesteps, Wan 2.2 "
            f"TI2V-5B) is not supported; {use}"
        )
    if transformer is None:
        raise UserError(
            f"model.path = {model.path!r}: model_index.json has no 'transformer', which denoises "
            f"from pure noise on; {use}"
        )
    if transformer.get("added_kv_proj_dim") or transformer["in_channels"] != latent_channels:
        raise UserError(
            f"model.path = {model.path!r}: its transformer is conditioned on an image "
            f"(added_kv_proj_dim = {transformer.get('added_kv_proj_dim')}, in_channels = "
            f"{transformer['in_channels']} for {latent_channels} of the VAE), which is not "
            f"supported; {use}"
        )
    if index.get("boundary_ratio") is not None and not _has(index, "transformer_2"):
        raise UserError(
            f"model.path = {model.path!r}: boundary_ratio = {index['boundary_ratio']} asks for a "
            "'transformer_2' and model_index.json has none; copy or download the model again"
        )


def _native_clip(
    model: ModelSpec, temporal_ratio: int, row_pixels: int, column_pixels: int
) -> tuple[int, int, int]:
    """(clip_frames, height, width) of the specification, checked.

    Args:
        model: says them.
        temporal_ratio: pixel frames of a latent frame.
        row_pixels, column_pixels: of one token.
    """
    given = {"clip_frames": model.clip_frames, "height": model.height, "width": model.width}
    if missing := [f"model.{key}" for key, value in given.items() if value is None]:
        raise UserError(
            f"{', '.join(missing)}: not set, and Wan's files do not say which clip a model was "
            "trained on; set them, typically --set model.clip_frames=81 --set model.height=480 "
            "--set model.width=832"
        )
    assert model.clip_frames is not None
    assert model.height is not None
    assert model.width is not None
    if (model.clip_frames - 1) % temporal_ratio:
        below = (model.clip_frames - 1) // temporal_ratio * temporal_ratio + 1
        raise UserError(
            f"model.clip_frames = {model.clip_frames}: must be {temporal_ratio}k+1 for this model; "
            f"the nearest are {below} and {below + temporal_ratio}"
        )
    for key, value, multiple in (
        ("height", model.height, row_pixels),
        ("width", model.width, column_pixels),
    ):
        if value % multiple:
            below = value // multiple * multiple
            nearest = f"{below} and {below + multiple}" if below else f"{multiple}"
            raise UserError(
                f"model.{key} = {value}: must be a multiple of {multiple} for this model, the "
                f"pixels of one token; try {nearest}"
            )
    return model.clip_frames, model.height, model.width


def _low_noise_below(folder: Path, index: dict[str, Any]) -> float | None:
    if index.get("boundary_ratio") is None:
        return None
    scheduler = model_folder.read_config(folder, "scheduler")
    return float(index["boundary_ratio"] * scheduler.get("num_train_timesteps", 1000))


def _capabilities(index: dict[str, Any]) -> frozenset[Capability]:
    capabilities: set[Capability] = {
        "long_clips",
        "anchor_attention",
        "spectral_attention",
        "windowed_attention",
    }
    if index.get("boundary_ratio") is not None:
        capabilities.add("second_guidance")
    return frozenset(capabilities)


backbone = WanBackbone
