"""Modes of attention: what a layer makes anew, and what all layers of a forward share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from glc_ray.backbones.attention import (
    AttentionMode,
    BlendAnchor,
    BlendFirst,
    RecordAnchor,
    WindowedMode,
)
from glc_ray.core import attention as core
from glc_ray.core.attention import SelfAttention, windowed_attention
from glc_ray.protocols import AnchorAttention, WindowedAttention

GRID = (5, 2, 2)


def layer_work(
    seed: int, clips: int = 1, num_text: int = 3, dtype: torch.dtype = torch.float32
) -> SelfAttention:
    """Of one layer, in the memory layout that projections leave: heads within tokens."""
    generator = torch.Generator().manual_seed(seed)
    tokens = num_text + 20
    query, key, value = (
        torch.randn((clips, tokens, 2, 4), generator=generator).to(dtype).transpose(1, 2)
        for _ in "qkv"
    )
    attend = scaled_dot_product_attention
    return SelfAttention(query, key, value, num_text, GRID, None, attend)


def test_windows_of_a_clip_are_weighed_once_for_all_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weighed = []

    def counted(path: Any, num_frames: int) -> list[float]:
        weighed.append(path)
        return frame_weights(path, num_frames)

    frame_weights = core.frame_weights
    expected = [windowed_attention(layer_work(seed), 3, 2) for seed in range(4)]
    monkeypatch.setattr(core, "frame_weights", counted)
    mode = WindowedMode(WindowedAttention(3, 2), 5)
    for seed in range(4):
        assert torch.equal(mode(f"layer{seed}", layer_work(seed)), expected[seed])
    assert len(weighed) == 1


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that is made while it is active."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {leaf.untyped_storage().data_ptr() for leaf in _tensors((args, kwargs))}
        result = func(*args, **(kwargs or {}))
        for made in _tensors(result):
            if made.untyped_storage().data_ptr() not in known:
                self.elements = max(self.elements, made.numel())
        return result


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def kept(dtype: torch.dtype, num_text: int) -> BlendAnchor:
    record = RecordAnchor(on_cpu=False)
    record("", layer_work(9, clips=2, num_text=num_text, dtype=dtype))
    return BlendAnchor(record.states, AnchorAttention(0.1))


def along(dtype: torch.dtype, num_text: int) -> BlendFirst:
    return BlendFirst(3, AnchorAttention(0.1))


@pytest.mark.parametrize("num_text", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("blender", [kept, along])
def test_tokens_are_blended_where_they_lie(
    blender: Callable[[torch.dtype, int], AttentionMode], dtype: torch.dtype, num_text: int
) -> None:
    mode = blender(dtype, num_text)
    work, before = (layer_work(0, clips=6, num_text=num_text, dtype=dtype) for _ in range(2))
    work.attend = lambda query, key, value: query
    with Largest() as largest:
        mode("", work)
    assert largest.elements == 0
    for name in ("key_BHSD", "value_BHSD"):
        theirs, ours = getattr(before, name), getattr(work, name)
        video = theirs[:, :, num_text:].unflatten(0, (2, 3))
        if isinstance(mode, BlendAnchor):
            anchor = mode._states[""][name == "value_BHSD"][:, None]
            video.copy_(torch.lerp(video, anchor, 0.1))
        else:
            video[:, 1:] = torch.lerp(video[:, 1:], video[:, :1], 0.1)
        assert torch.equal(ours, theirs)
