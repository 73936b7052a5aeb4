"""diffusers' own decode of a whole video, to measure against."""

from __future__ import annotations

from collections.abc import Callable

import torch
from diffusers import AutoModel
from torch import Tensor

from glc_ray.backbones import model_folder
from glc_ray.config import DecodeSpec, ModelSpec


def whole_decode(model: ModelSpec, decode: DecodeSpec) -> Callable[[Tensor], Tensor]:
    """``vae.decode`` as diffusers loads it, on the CPU and without tiles.

    It takes (B, K, C, H, W) as the VAE scales them and gives pixels (B, 3, frames, height, width).
    """
    vae = AutoModel.from_pretrained(
        str(model_folder.resolve(model)),
        subfolder="vae",
        torch_dtype=getattr(torch, decode.dtype or model.dtype),
        use_safetensors=True,
        trust_remote_code=False,
    ).eval()

    @torch.no_grad()
    def run(latents_BFCHW: Tensor) -> Tensor:
        return vae.decode(latents_BFCHW.to(vae.dtype).transpose(1, 2)).sample

    return run
