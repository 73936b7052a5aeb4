"""Wan's causal video VAE as a frame decoder: one latent frame of one tile at a time.

Layout suffixes: B batch, F frames, C channels, H height, W width. The VAE itself takes BCFHW.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanCausalConv3d,
    WanResample,
    unpatchify,
)
from torch import Tensor

from glc_ray.config import DecodeSpec
from glc_ray.protocols import DecoderFacts, TileAxis, TileGeometry, UserError


class WanFrameDecoder:
    """``FrameDecoder`` over a loaded ``AutoencoderKLWan``.

    Pixels are not clamped to [-1, 1], which ``vae.decode`` does last: the conversion to 8 bits
    clamps to the same bits, and until then an overflow can be told from white.
    """

    def __init__(self, vae: AutoencoderKLWan, *, tiling: bool) -> None:
        """Put the VAE to decode.

        Args:
            vae: on its device and in its precision; set to evaluation.
            tiling: decode pictures larger than one tile in tiles of the VAE's own geometry (its
                ``tile_*`` attributes at this moment), as after ``vae.enable_tiling()``.
        """
        assert not (tiling and _is_patched(vae)), "tiles are blended before they are unpatched"
        self._vae = vae.eval().requires_grad_(False)
        self.device: torch.device = vae.device
        self.facts: DecoderFacts = facts_of(vae, tiling=tiling)
        self._mean = self._per_channel(vae.config.latents_mean)
        # As the pipeline: divided by a reciprocal that is rounded to the VAE's precision.
        self._reciprocal_std = 1.0 / self._per_channel(vae.config.latents_std)
        self._num_caches = sum(isinstance(part, WanCausalConv3d) for part in vae.decoder.modules())

    @torch.no_grad()
    def decode_tile(self, latents_BFCHW: Tensor, cache: Any | None) -> tuple[Tensor, Any]:
        """Decode one latent frame of one tile.

        Args:
            latents_BFCHW: (B, 1, C, h, w) as the denoiser leaves them, on the decoder's device.
            cache: features of the tile's previous frames; None for its first.

        Returns:
            Pixels (B, frames, 3, height, width), about [-1, 1], one frame for the first latent and
            four for each other, and the tile's next cache.
        """
        latents_BCFHW = latents_BFCHW.to(self._vae.dtype).permute(0, 2, 1, 3, 4)
        latents_BCFHW = latents_BCFHW / self._reciprocal_std + self._mean
        # A copy of the list, whose places the decoder fills anew.
        features = [None] * self._num_caches if cache is None else list(cache)
        pixels_BCFHW = self._vae.decoder(
            self._vae.post_quant_conv(latents_BCFHW),
            feat_cache=features,
            feat_idx=[0],
            first_chunk=cache is None,
        )
        if _is_patched(self._vae):
            pixels_BCFHW = unpatchify(pixels_BCFHW, self._vae.config.patch_size)
        return pixels_BCFHW.permute(0, 2, 1, 3, 4), features

    def _per_channel(self, values: list[float]) -> Tensor:
        return torch.tensor(values).view(1, -1, 1, 1, 1).to(self.device, self._vae.dtype)


def load_frame_decoder(
    folder: str | PathLike[str], decode: DecodeSpec, *, dtype: torch.dtype, device: torch.device
) -> WanFrameDecoder:
    """Load the VAE alone.

    Args:
        folder: a model in diffusers' format; only ``vae/`` is read, safetensors only.
        decode: whether to decode in tiles, and in which ones.
        dtype: precision of weights and activations.
        device: where it decodes.

    Raises:
        UserError: tiles that the VAE cannot follow.
    """
    vae = AutoencoderKLWan.from_pretrained(
        folder, subfolder="vae", dtype=dtype, use_safetensors=True
    ).to(device)
    return WanFrameDecoder(vae, tiling=_set_tiles(vae, decode))


def decoder_facts(folder: str | PathLike[str], decode: DecodeSpec) -> DecoderFacts:
    """What the decoder of `load_frame_decoder` will be like; reads no weights.

    Raises:
        UserError: tiles that the VAE cannot follow.
    """
    vae = _without_weights(folder)
    return facts_of(vae, tiling=_set_tiles(vae, decode))


def facts_of(vae: AutoencoderKLWan, *, tiling: bool) -> DecoderFacts:
    """Read a VAE's facts from its modules, on any device."""
    return DecoderFacts(
        batch_size=1,
        temporal_ratio=_temporal_ratio(vae),
        spatial_ratio=vae.config.scale_factor_spatial,
        exact_warmup=exact_warmup(vae),
        tiles=tile_geometry(vae) if tiling else None,
    )


def exact_warmup(vae: AutoencoderKLWan) -> int:
    """Latent frames that an output frame can see back, and the first chunk's own rules with it.

    Norms and attention stay within a frame; a convolution over time sees two frames back, where
    frames are counted as they are at its depth. The first latent frame of a decode is not doubled
    in time, and the convolutions that double the later ones never see it, so that they are right
    only two frames after it at the earliest. 38 for Wan's VAE.
    """
    first_right = 0  # of the frames after a layer, counted from the decode's start
    for part in vae.decoder.modules():
        if isinstance(part, WanResample) and part.mode == "upsample3d":
            # Frame i > 0 becomes 2i - 1 and 2i.
            first_right = 2 * (max(first_right, 1) + 2) - 1
        elif isinstance(part, WanCausalConv3d) and part.kernel_size == (3, 3, 3):
            first_right += 2
    # Latent frame k > 0 becomes ratio (k - 1) + 1 and those after it.
    return -(-(first_right - 1) // _temporal_ratio(vae)) + 1


def check_tiling(folder: str | PathLike[str], decode: DecodeSpec) -> None:
    """Find out from the VAE's configuration whether it can decode in the tiles asked for.

    Raises:
        UserError: it cannot, or ``tiling`` is off.
    """
    for key in ("tile_height", "tile_width", "tile_overlap"):
        if decode.tiling == "off" and (value := getattr(decode, key)) is not None:
            raise UserError(
                f"decode.{key} = {value}: there are no tiles with decode.tiling = 'off'; use "
                "'auto' or leave the key out"
            )
    _set_tiles(_without_weights(folder), decode)


def tile_geometry(vae: AutoencoderKLWan) -> TileGeometry:
    """The integers that ``tiled_decode`` computes from the VAE's ``tile_*`` attributes."""
    ratio = vae.spatial_compression_ratio
    return TileGeometry(
        height=_axis(vae.tile_sample_min_height, vae.tile_sample_stride_height, ratio),
        width=_axis(vae.tile_sample_min_width, vae.tile_sample_stride_width, ratio),
    )


def _axis(size: int, stride: int, ratio: int) -> TileAxis:
    return TileAxis(
        latent_size=size // ratio,
        latent_stride=stride // ratio,
        blend_extent=size - stride,
        limit=stride,
    )


def _without_weights(folder: str | PathLike[str]) -> AutoencoderKLWan:
    with torch.device("meta"):
        return AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(folder, subfolder="vae"))


def _temporal_ratio(vae: AutoencoderKLWan) -> int:
    return 2 ** sum(vae.temperal_downsample)


def _set_tiles(vae: AutoencoderKLWan, decode: DecodeSpec) -> bool:
    """Set the VAE's tiles to the user's; whether to decode in tiles."""
    if decode.tiling == "off":
        return False
    if _is_patched(vae):
        if decode.tiling == "on":
            raise UserError(
                "decode.tiling = 'on': this VAE decodes patches (patch_size = "
                f"{vae.config.patch_size}), which are not blended across tiles; use 'off' or 'auto'"
            )
        return False
    sizes = {
        "height": (decode.tile_height or vae.tile_sample_min_height, vae.tile_sample_min_height),
        "width": (decode.tile_width or vae.tile_sample_min_width, vae.tile_sample_min_width),
    }
    for side, (size, own_size) in sizes.items():
        overlap = decode.tile_overlap
        if overlap is None:
            overlap = 1 - getattr(vae, f"tile_sample_stride_{side}") / own_size
        stride = round(size * (1 - overlap))
        _check_tile(side, size, stride, vae.spatial_compression_ratio, overlap)
        vae.enable_tiling(**{f"tile_sample_min_{side}": size, f"tile_sample_stride_{side}": stride})
    return True


def _check_tile(side: str, size: int, stride: int, ratio: int, overlap: float) -> None:
    """Refuse tiles that do not begin and end between latent cells.

    Raises:
        UserError: naming sizes, or overlaps, that do.
    """
    if size % ratio or size < ratio:
        nearest = max(round(size / ratio), 1) * ratio
        raise UserError(
            f"decode.tile_{side} = {size}: must be a multiple of {ratio}, the pixels of a latent "
            f"cell; the nearest is {nearest}"
        )
    if stride % ratio or stride < ratio:
        nearest = max(round(stride / ratio), 1) * ratio
        raise UserError(
            f"decode.tile_overlap = {overlap:g}: tiles of {size} pixels ({side}) would be {stride} "
            f"apart, which must be a multiple of {ratio}, the pixels of a latent cell; the nearest "
            f"overlap is {1 - nearest / size:g}"
        )


def _is_patched(vae: AutoencoderKLWan) -> bool:
    return vae.config.patch_size is not None
