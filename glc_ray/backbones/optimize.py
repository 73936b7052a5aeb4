"""Memory and speed of a transformer, by diffusers' own methods."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.models.attention_dispatch import AttentionBackendName

from glc_ray.backbones.model_folder import read_config
from glc_ray.config import OptimizeSpec
from glc_ray.protocols import UserError

_MAX_SHAPES = 64
"""Shapes of clips and batches that torch.compile keeps code for; by default it gives up after 8."""


def check(folder: Path, spec: OptimizeSpec, *, on_gpu: bool) -> None:
    """Find out from the transformer's configuration whether it can follow the options.

    Args:
        folder: the model's, in diffusers' format.
        spec: the options.
        on_gpu: it is to compute on a GPU.

    Raises:
        UserError: group offloading without a GPU; an attention backend that there is not, or that
            the model would not use.
    """
    if spec.group_offload != "off" and not on_gpu:
        raise UserError(
            f"optimize.group_offload = {spec.group_offload!r}: a GPU fetches weights from main "
            "memory group by group, but denoisers compute on the CPU; leave the key out, or give "
            "them a GPU with --set resources.denoisers.num_gpus=1"
        )
    if spec.attention_backend is None:
        return
    name = spec.attention_backend
    refusal = f"optimize.attention_backend = {name!r}"
    if name not in (known := attention_backends()):
        raise UserError(
            f"{refusal}: diffusers {diffusers.__version__} has {', '.join(known)} (those whose "
            "names end in _hub are refused: they run code that is downloaded from the hub)"
        )
    config = read_config(folder, "transformer")
    kind = getattr(diffusers, config["_class_name"])
    with torch.device("meta"):
        processors = kind.from_config(config).attn_processors.values()
    if not any(hasattr(processor, "_attention_backend") for processor in processors):
        raise UserError(
            f"{refusal}: the attention of diffusers' {kind.__name__} is always torch's "
            "scaled_dot_product_attention, which chooses the fastest kernel by itself; leave the "
            "key out"
        )


def attention_backends() -> list[str]:
    """Names of diffusers' attention backends whose code is installed, not downloaded."""
    names = (backend.value for backend in AttentionBackendName)
    return sorted(name for name in names if not name.endswith("_hub"))


def weights_device(spec: OptimizeSpec, device: torch.device) -> torch.device:
    """Where to load weights to: main memory if groups of them are to visit ``device`` in turn."""
    return torch.device("cpu") if spec.group_offload != "off" and device.type != "meta" else device


def optimize(
    transformer: Any, spec: OptimizeSpec, device: torch.device, dtype: torch.dtype
) -> None:
    """Apply the options to a loaded transformer of diffusers.

    Order matters: weights are cast before they are grouped, since a group remembers its tensors in
    main memory; attention backends are set before processors of ours wrap the stock ones.

    Args:
        transformer: on `weights_device`; nothing is done to one on the meta device.
        spec: what to do.
        device: where it computes.
        dtype: in which it computes.

    Raises:
        UserError: the device or what is installed there cannot follow an option.
    """
    if device.type == "meta":
        return
    if spec.layerwise_casting != "off":
        transformer.enable_layerwise_casting(
            storage_dtype=getattr(torch, spec.layerwise_casting), compute_dtype=dtype
        )
    if spec.group_offload != "off":
        assert device.type != "cpu", "check() refuses this"
        offload_groups(transformer, spec.group_offload, device)
    _set_attention_backend(transformer, spec.attention_backend)
    if spec.compile:
        compile_blocks(transformer)


def offload_groups(transformer: Any, level: str, device: torch.device) -> None:
    """Keep weights in main memory, and have each block or leaf module fetch its own to ``device``.

    On CUDA the next group comes on a stream of its own while the last one computes.
    """
    transformer.enable_group_offload(
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type=level,
        num_blocks_per_group=1 if level == "block_level" else None,
        use_stream=device.type == "cuda",
    )


def compile_blocks(transformer: Any, **options: Any) -> None:
    """Compile the blocks that the transformer repeats; one compilation serves them all.

    Every shape gets code of its own. By default torch generalises its code at the second shape that
    it meets and gives up at the ninth, so that the last bits of a window could depend on what its
    worker has met before.

    Args:
        transformer: of a class that names its blocks in ``_repeated_blocks``.
        options: of ``torch.compile``.
    """
    from torch._dynamo import config as dynamo

    # The older of its two names, which all versions of torch know.
    dynamo.cache_size_limit = max(dynamo.cache_size_limit, _MAX_SHAPES)
    transformer.compile_repeated_blocks(dynamic=False, **options)


def _set_attention_backend(transformer: Any, name: str | None) -> None:
    """Name the backend to this model's own processors; None for torch's choice of a kernel.

    One that has none follows the process: diffusers' method sets it for all other models too, and
    its ``DIFFUSERS_ATTN_BACKEND`` for one machine; their kernels round differently.
    """
    if name is None:
        for processor in transformer.attn_processors.values():
            if hasattr(processor, "_attention_backend"):
                processor._attention_backend = AttentionBackendName.NATIVE
        return
    try:
        transformer.set_attention_backend(name)
    except (ImportError, RuntimeError) as error:
        raise UserError(
            f"optimize.attention_backend = {name!r} cannot be used by this worker: {error}; "
            "install what it needs on every node, or leave the key out for torch's own"
        ) from None
