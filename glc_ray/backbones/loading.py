"""A model's transformer: with its weights, or as shapes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def load_transformer(
    kind: type[Any], folder: Path, part: str, *, dtype: torch.dtype, device: torch.device
) -> Any:
    """A transformer of diffusers' class ``kind``, ready for inference.

    Args:
        kind: the model class.
        folder: the model's, in diffusers' format.
        part: its folder in there.
        dtype: of weights, but for those that the class keeps in float32.
        device: on ``meta`` its configuration is enough and no weight is read: what it computes has
            shapes and no values, which is what a plan needs to know (`glc_ray.backbones.cost`).
    """
    if device.type == "meta":
        transformer = _shapes_alone(kind, folder, part, dtype)
    else:
        transformer = kind.from_pretrained(
            folder, subfolder=part, dtype=dtype, use_safetensors=True
        ).to(device)
    return transformer.eval().requires_grad_(False)


def _shapes_alone(kind: type[Any], folder: Path, part: str, dtype: torch.dtype) -> Any:
    with torch.device("meta"):
        transformer = kind.from_config(kind.load_config(folder, subfolder=part))
    in_float32 = set(kind._keep_in_fp32_modules or ())
    for name, parameter in transformer.named_parameters():
        if not in_float32 & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)
    return transformer
