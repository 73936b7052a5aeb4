"""CogVideoX's self-attention as a processor that `AttentionControl` can change.

Layout suffixes: ``B`` batch, ``H`` heads, ``S`` tokens, ``D`` head width.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor
from torch.nn import functional

from glc_ray.backbones.attention import AttentionControl
from glc_ray.core.attention import SelfAttention


class CogVideoXAttention:
    """Attention processor: diffusers' own, or a `SelfAttention` where a mode is active."""

    def __init__(self, layer: str, control: AttentionControl, stock: Any) -> None:
        self._layer = layer
        self._control = control
        self._stock = stock

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Video tokens and text tokens after attention, as the transformer block expects them."""
        if not self._control.is_active:
            return self._stock(
                attn, hidden_states, encoder_hidden_states, attention_mask, image_rotary_emb
            )
        return self._changed(attn, hidden_states, encoder_hidden_states, image_rotary_emb)

    @torch.compiler.disable
    def _changed(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        num_text = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        query, key, value = (
            project(tokens).unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        work = SelfAttention(
            query_BHSD=query if attn.norm_q is None else attn.norm_q(query),
            key_BHSD=key if attn.norm_k is None else attn.norm_k(key),
            value_BHSD=value,
            num_text=num_text,
            grid=self._control.grid,
            rotate=None if rotary is None else _Rotation(rotary, self._control.grid),
            attend=functional.scaled_dot_product_attention,
        )
        output = self._control.run(self._layer, work).transpose(1, 2).flatten(2)
        output = attn.to_out[1](attn.to_out[0](output))
        return output[:, num_text:], output[:, :num_text]


class _Rotation:
    """Rotary positions of a clip that starts at position 0."""

    def __init__(self, rotary: tuple[Tensor, Tensor], grid: tuple[int, int, int]) -> None:
        self._rotary = rotary
        self._tokens_per_frame = grid[1] * grid[2]

    def __call__(self, tokens_BHSD: Tensor, num_frames: int) -> Tensor:
        length = num_frames * self._tokens_per_frame
        cos, sin = (table[:length] for table in self._rotary)
        return apply_rotary_emb(tokens_BHSD, (cos, sin))
