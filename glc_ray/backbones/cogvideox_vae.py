"""CogVideoX's causal video VAE as a frame decoder: one temporal batch of one tile at a time.

Layout suffixes: B batch, F frames, C channels, H height, W width. The VAE itself takes BCFHW.
"""

from __future__ import annotations

from os import PathLike
from types import MethodType
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXCausalConv3d
from torch import Tensor, nn

from glc_ray.config import DecodeSpec
from glc_ray.protocols import DecoderFacts, TileAxis, TileGeometry, UserError

_TILE_KEYS = ("tile_height", "tile_width", "tile_overlap")


class CogVideoXFrameDecoder:
    """``FrameDecoder`` over a loaded ``AutoencoderKLCogVideoX``."""

    def __init__(self, vae: AutoencoderKLCogVideoX, *, tiling: bool) -> None:
        """Put the VAE to decode.

        Args:
            vae: on its device and in its precision; set to evaluation.
            tiling: decode pictures larger than one tile in tiles of the VAE's own geometry (its
                ``tile_*`` attributes at this moment), as after ``vae.enable_tiling()``.
        """
        self._vae = vae.eval().requires_grad_(False)
        self.device: torch.device = vae.device
        self.facts: DecoderFacts = facts_of(vae, tiling=tiling)

    @torch.no_grad()
    def decode_tile(self, latents_BFCHW: Tensor, cache: Any | None) -> tuple[Tensor, Any]:
        """Decode one temporal batch of one tile.

        Args:
            latents_BFCHW: (B, f, C, h, w) as the denoiser leaves them, on the decoder's device.
            cache: convolution caches of the tile's previous batch; None for its first.

        Returns:
            Pixels (B, frames, 3, height, width), about [-1, 1], and the tile's next cache.
        """
        latents_BCFHW = latents_BFCHW.to(self._vae.dtype).permute(0, 2, 1, 3, 4)
        latents_BCFHW = 1 / self._vae.config.scaling_factor * latents_BCFHW
        if self._vae.post_quant_conv is not None:
            latents_BCFHW = self._vae.post_quant_conv(latents_BCFHW)
        pixels_BCFHW, cache = self._vae.decoder(latents_BCFHW, conv_cache=cache)
        return pixels_BCFHW.permute(0, 2, 1, 3, 4), cache


def load_frame_decoder(
    folder: str | PathLike[str],
    *,
    dtype: torch.dtype,
    device: torch.device,
    decode: DecodeSpec,
) -> CogVideoXFrameDecoder:
    """Load the VAE alone.

    Args:
        folder: a model in diffusers' format or a hub id; only ``vae/`` is read, safetensors only.
        dtype: precision of weights and activations.
        device: where it decodes.
        decode: tiles, if any: ``tiling`` off decodes whole pictures; on and auto decode pictures
            larger than one tile in tiles, where these make up the picture without gaps
            (`check_tiling` refuses ``on`` and tiles of the user's own where they do not).

    """
    vae = AutoencoderKLCogVideoX.from_pretrained(
        folder, subfolder="vae", torch_dtype=dtype, use_safetensors=True
    ).to(device)
    if device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available():
        _convolve_with_onednn(vae.decoder)
    return CogVideoXFrameDecoder(vae, tiling=_set_tiles(vae, decode))


def decoder_facts(folder: str | PathLike[str], decode: DecodeSpec) -> DecoderFacts:
    """What the decoder of `load_frame_decoder` will be like; reads no weights."""
    vae = _without_weights(folder)
    return facts_of(vae, tiling=_set_tiles(vae, decode))


def facts_of(vae: AutoencoderKLCogVideoX, *, tiling: bool) -> DecoderFacts:
    """Read a VAE's facts from its modules, on any device."""
    return DecoderFacts(
        batch_size=vae.num_latent_frames_batch_size,
        temporal_ratio=int(vae.config.temporal_compression_ratio),
        spatial_ratio=_spatial_ratio(vae),
        exact_warmup=exact_warmup(vae),
        tiles=tile_geometry(vae) if tiling else None,
    )


def exact_warmup(vae: AutoencoderKLCogVideoX) -> int:
    """Latent frames that an output frame can see back: one temporal batch for each convolution.

    All that reaches from a temporal batch into the next is the last two frames of the input of each
    convolution over time. Within a batch group normalisation mixes all frames, so that a batch of
    a convolution's output is right when the two batches of input are, this one and the one before.
    The convolutions follow one another, so the n-th is right from batch n on: 38 batches of two for
    CogVideoX, 22 for toyworld. Of these 76 and 44 latents, 70 to 76 and 36 to 40 were needed where
    it was tried: the norms carry a last digit nearly as far as it can go.
    """
    size = vae.num_latent_frames_batch_size
    convolutions = [
        part
        for part in vae.decoder.modules()
        if isinstance(part, CogVideoXCausalConv3d) and part.time_kernel_size > 1
    ]
    batches_back = [-(-(part.time_kernel_size - 1) // size) for part in convolutions]
    return size * sum(batches_back)


def check_tiling(folder: str | PathLike[str], decode: DecodeSpec) -> None:
    """Find out from the VAE's configuration whether it can decode in the tiles asked for.

    Raises:
        UserError: tiles that do not make up a picture where ``tiling`` is on or their size is
            given; a size where ``tiling`` is off.
    """
    given = [key for key in _TILE_KEYS if getattr(decode, key) is not None]
    if given and decode.tiling == "off":
        raise UserError(
            f"decode.{given[0]} = {getattr(decode, given[0])}: there are no tiles with "
            "decode.tiling = 'off'; use 'auto' or leave the key out"
        )
    if not given and decode.tiling != "on":
        return
    vae = _without_weights(folder)
    _set_tiles(vae, decode)
    if _makes_up_picture(vae):
        return
    size = f"tiles of {vae.tile_sample_min_height} x {vae.tile_sample_min_width} pixels"
    if not given:
        raise UserError(
            f"decode.tiling = 'on': {size} (half of the VAE's sample_height and sample_width) do "
            f"not make up a picture for {folder}; use 'off' or 'auto', or give decode.tile_height, "
            "decode.tile_width and decode.tile_overlap"
        )
    tiles, ratio = tile_geometry(vae), _spatial_ratio(vae)
    raise UserError(
        f"decode.{given[0]} = {getattr(decode, given[0])}: {size} do not make up a picture: with "
        f"this overlap each gives {tiles.height.limit} x {tiles.width.limit} pixels of it, but "
        f"the next starts {tiles.height.latent_stride * ratio} x "
        f"{tiles.width.latent_stride * ratio} further on; sides and overlaps must be multiples of "
        f"{ratio} pixels, for example decode.tile_height = decode.tile_width = {4 * ratio} with "
        "decode.tile_overlap = 0.25"
    )


def _without_weights(folder: str | PathLike[str]) -> AutoencoderKLCogVideoX:
    with torch.device("meta"):
        return AutoencoderKLCogVideoX.from_config(
            AutoencoderKLCogVideoX.load_config(folder, subfolder="vae")
        )


def _set_tiles(vae: AutoencoderKLCogVideoX, decode: DecodeSpec) -> bool:
    """The user's tiles in place of the VAE's own, by key; whether to decode in tiles."""
    vae.enable_tiling(
        decode.tile_height, decode.tile_width, decode.tile_overlap, decode.tile_overlap
    )
    if decode.tile_overlap is not None:
        # enable_tiling takes 0 for "as before".
        vae.tile_overlap_factor_height = vae.tile_overlap_factor_width = decode.tile_overlap
    return decode.tiling != "off" and _makes_up_picture(vae)


def _convolve_with_onednn(module: nn.Module) -> None:
    """Have 3D convolutions use oneDNN for a batch of one, too.

    For small pictures torch takes an unfolding of the input there, seven times slower on two cores;
    the results differ in the last bits (3e-6 of pixels in [-1, 1]).
    """

    def convolve(layer: nn.Conv3d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        assert not isinstance(layer.padding, str)
        return torch.mkldnn_convolution(
            x, weight, bias, layer.padding, layer.stride, layer.dilation, layer.groups
        )

    for layer in module.modules():
        if isinstance(layer, nn.Conv3d):
            # Below diffusers' own forward, which splits inputs that are too large.
            layer._conv_forward = MethodType(convolve, layer)  # type: ignore[method-assign]


def tile_geometry(vae: AutoencoderKLCogVideoX) -> TileGeometry:
    """The integers that ``tiled_decode`` computes from the VAE's ``tile_*`` attributes."""
    return TileGeometry(
        height=_axis(
            vae.tile_latent_min_height, vae.tile_sample_min_height, vae.tile_overlap_factor_height
        ),
        width=_axis(
            vae.tile_latent_min_width, vae.tile_sample_min_width, vae.tile_overlap_factor_width
        ),
    )


def _axis(latent_size: int, sample_size: int, overlap: float) -> TileAxis:
    blend_extent = int(sample_size * overlap)
    return TileAxis(
        latent_size=latent_size,
        latent_stride=int(latent_size * (1 - overlap)),
        blend_extent=blend_extent,
        limit=sample_size - blend_extent,
    )


def _makes_up_picture(vae: AutoencoderKLCogVideoX) -> bool:
    """Whether each tile keeps as many pixels as lie between its start and the next one's.

    Small tiles do not (integers are rounded down on the way): a picture of 64 x 96 pixels comes
    out of ``tiled_decode`` as 70 x 110 where a tile is 32 x 48.
    """
    ratio = _spatial_ratio(vae)
    tiles = tile_geometry(vae)
    return all(axis.limit == axis.latent_stride * ratio for axis in (tiles.height, tiles.width))


def _spatial_ratio(vae: AutoencoderKLCogVideoX) -> int:
    return 2 ** (len(vae.config.block_out_channels) - 1)
