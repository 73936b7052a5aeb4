"""Self-attention over long clips: positions within windows, neighbourhoods in time, mixtures.

Layout suffixes: ``B`` batch, ``H`` heads, ``S`` tokens, ``D`` head width. Tokens are those of the
text, then those of the video, frame after frame; a *token frame* is one step of the model's patches
in time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Rotate = Callable[[Tensor, int], Tensor]
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class SelfAttention:
    """The work of one self-attention layer, before positions are added to queries and keys."""

    query_BHSD: Tensor
    key_BHSD: Tensor
    """After the key norm."""
    value_BHSD: Tensor
    num_text: int
    """Leading text tokens; 0 where text has an attention of its own."""
    grid: tuple[int, int, int]
    """Video tokens as (token frames, rows, columns)."""
    rotate: Rotate | None
    """Adds rotary positions to video tokens (B, H, S, D) that span so many token frames, from
    position 0 on; None for models that add positions elsewhere."""
    attend: Attend
    """Scaled dot-product attention of (query, key, value), each (B, H, S, D)."""

    def full(self) -> Tensor:
        """Every token attends to every token: the model's own attention. (B, H, S, D)."""
        query_BHSD, key_BHSD = self.query_BHSD, self.key_BHSD
        if self.rotate is not None:
            text, frames = self.num_text, self.grid[0]
            for tokens_BHSD in (query_BHSD, key_BHSD):
                tokens_BHSD[:, :, text:] = self.rotate(tokens_BHSD[:, :, text:], frames)
        return self.attend(query_BHSD, key_BHSD, self.value_BHSD)
