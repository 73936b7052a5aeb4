"""Wan's self-attention as a processor that `AttentionControl` can change.

Layout suffixes: ``B`` batch, ``H`` heads, ``S`` tokens, ``D`` head width. Text has an attention of
its own in Wan (``attn2``), which is left alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from torch import Tensor

from glc_ray.backbones.attention import AttentionControl
from glc_ray.core.attention import SelfAttention


class WanSelfAttention:
    """Attention processor: diffusers' own, or a `SelfAttention` where a mode is active."""

    def __init__(self, layer: str, control: AttentionControl, stock: Any) -> None:
        self._layer = layer
        self._control = control
        self._stock = stock

    @property
    def _attention_backend(self) -> Any:
        """The stock processor's, so that diffusers' ``set_attention_backend`` reaches both."""
        return self._stock._attention_backend

    @_attention_backend.setter
    def _attention_backend(self, backend: Any) -> None:
        self._stock._attention_backend = backend

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Video tokens after attention, as the transformer block expects them."""
        if not self._control.is_active:
            return self._stock(
                attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb
            )
        assert rotary_emb is not None
        return self._changed(attn, hidden_states, rotary_emb)

    @torch.compiler.disable
    def _changed(self, attn: Any, tokens: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        query, key, value = (
            # The norms span all heads.
            projected.unflatten(2, (attn.heads, -1)).transpose(1, 2)
            for projected in (
                attn.norm_q(attn.to_q(tokens)),
                attn.norm_k(attn.to_k(tokens)),
                attn.to_v(tokens),
            )
        )
        work = SelfAttention(
            query_BHSD=query,
            key_BHSD=key,
            value_BHSD=value,
            num_text=0,
            grid=self._control.grid,
            rotate=_Rotation(rotary, self._control.grid),
            attend=partial(_attend, backend=self._attention_backend),
        )
        output = self._control.run(self._layer, work).transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](output.type_as(query)))


class _Rotation:
    """Rotary positions of a clip that starts at position 0."""

    def __init__(self, rotary: tuple[Tensor, Tensor], grid: tuple[int, int, int]) -> None:
        """Prepare.

        Args:
            rotary: cosines and sines (1, S, 1, D) of all positions, each for two neighbours.
            grid: (token frames, rows, columns).
        """
        # Of each pair of neighbours diffusers takes the first cosine and the second sine.
        self._cos, self._sin = rotary[0][..., 0::2], rotary[1][..., 1::2]
        self._tokens_per_frame = grid[1] * grid[2]

    def __call__(self, tokens_BHSD: Tensor, num_frames: int) -> Tensor:
        length = num_frames * self._tokens_per_frame
        cos, sin = (table[:, :length].transpose(1, 2) for table in (self._cos, self._sin))
        first, second = tokens_BHSD.unflatten(-1, (-1, 2)).unbind(-1)
        rotated_BHSD = torch.empty_like(tokens_BHSD)
        rotated_BHSD[..., 0::2] = first * cos - second * sin
        rotated_BHSD[..., 1::2] = first * sin + second * cos
        return rotated_BHSD


def _attend(query_BHSD: Tensor, key_BHSD: Tensor, value_BHSD: Tensor, *, backend: Any) -> Tensor:
    """Attention by diffusers' own choice of kernel, which takes (B, S, H, D)."""
    output_BSHD = dispatch_attention_fn(
        query_BHSD.transpose(1, 2),
        key_BHSD.transpose(1, 2),
        value_BHSD.transpose(1, 2),
        backend=backend,
    )
    return output_BSHD.transpose(1, 2)
