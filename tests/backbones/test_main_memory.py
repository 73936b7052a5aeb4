"""Tensors in main memory come back as they were, and lock no more of it than they have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from glc_ray.backbones import main_memory
from glc_ray.backbones.attention import BlendAnchor, RecordAnchor
from glc_ray.backbones.main_memory import InMainMemory, piece_sizes
from glc_ray.core.attention import SelfAttention
from glc_ray.protocols import AnchorAttention

CPU = torch.device("cpu")
COGVIDEOX_5B = 2 * 48 * 13 * 30 * 45 * 64
"""Keys of a layer: branches, heads, tokens, width of a head."""


def locked_bytes(size: int) -> int:
    """What torch locks for a block: the next power of two."""
    return 1 << (size - 1).bit_length()


@given(st.integers(1, 2**34), st.sampled_from([1, 2, 4, 8]))
@example(COGVIDEOX_5B, 2)
@example(2**20, 2)
@example(2**20 - 1, 1)
def test_pieces_lock_what_the_tensor_has(num_elements: int, element_bytes: int) -> None:
    sizes = piece_sizes(num_elements, element_bytes)
    assert sum(sizes) == num_elements
    assert min(sizes) > 0
    assert len(sizes) <= 20
    locked = sum(locked_bytes(size * element_bytes) for size in sizes)
    assert locked < num_elements * element_bytes + 2**20


def test_one_piece_would_lock_more() -> None:
    assert locked_bytes(2 * COGVIDEOX_5B) > 1.2 * 2 * COGVIDEOX_5B
    assert locked_bytes(42 * 4 * COGVIDEOX_5B) > 1.2 * 42 * 4 * COGVIDEOX_5B


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("least_bytes", [1, 16, 64, 1 << 20])
def test_a_tensor_comes_back_as_it_was(
    least_bytes: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(main_memory, "_LEAST_BYTES", least_bytes)
    for shape in ((1,), (2, 3, 7, 5), (2, 2, 20, 4)):
        tensor = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
        for layout in (
            tensor,
            tensor.transpose(0, -1),
            tensor[:, 1:] if len(shape) > 1 else tensor,
        ):
            kept, before = InMainMemory(layout), layout.clone()
            assert kept.nbytes == layout.nbytes
            layout.add_(1)
            assert torch.equal(kept.to(CPU), before)
            assert torch.equal(kept.to(CPU, non_blocking=True), before)


def layer_work(seed: int, clips: int) -> SelfAttention:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (
        torch.randn((clips, 23, 2, 4), generator=generator).transpose(1, 2) for _ in "qkv"
    )
    return SelfAttention(query, key, value, 3, (5, 2, 2), None, scaled_dot_product_attention)


def test_an_anchor_in_main_memory_is_blended_as_one_on_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(main_memory, "_LEAST_BYTES", 64)
    record, options = RecordAnchor(on_cpu=False), AnchorAttention(0.1)
    record("layer", layer_work(0, 2))
    in_pieces = {
        layer: (InMainMemory(key), InMainMemory(value))
        for layer, (key, value) in record.states.items()
    }
    expected = BlendAnchor(record.states, options)("layer", layer_work(1, 6))
    assert torch.equal(BlendAnchor(in_pieces, options)("layer", layer_work(1, 6)), expected)
