"""Self-attention over long clips: positions within windows, neighbourhoods in time, mixtures.

Layout suffixes: ``B`` batch, ``H`` heads, ``S`` tokens, ``D`` head width; of filters ``F`` token
frames, ``H`` rows, ``W`` columns; of shares ``W`` windows. Tokens are those of the text, then those
of the video, frame after frame; a *token frame* is one step of the model's patches in time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from glc_ray.core.fusion import frame_weights
from glc_ray.core.spectral import frequency_mix
from glc_ray.core.windows import local_windows, triangle_weights
from glc_ray.protocols import Path, Window

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
    position 0 on; None for models that add positions elsewhere, and once they are added."""
    attend: Attend
    """Scaled dot-product attention of (query, key, value), each (B, H, S, D)."""

    def full(self) -> Tensor:
        """Every token attends to every token: the model's own attention. (B, H, S, D)."""
        self.add_positions()
        return self.attend(self.query_BHSD, self.key_BHSD, self.value_BHSD)

    def add_positions(self) -> None:
        """Rotate queries and keys of the video by their places in the clip: in place, once."""
        if self.rotate is None:
            return
        text, frames = self.num_text, self.grid[0]
        for tokens_BHSD in (self.query_BHSD, self.key_BHSD):
            tokens_BHSD[:, :, text:] = self.rotate(tokens_BHSD[:, :, text:], frames)
        self.rotate = None

    def tokens(self, start: int, stop: int) -> slice:
        """Where the tokens of token frames start..stop - 1 lie."""
        tokens_per_frame = self.grid[1] * self.grid[2]
        return slice(
            self.num_text + start * tokens_per_frame, self.num_text + stop * tokens_per_frame
        )

    def clip(self, start: int, stop: int) -> SelfAttention:
        """The text and token frames start..stop - 1 as a clip of their own: a copy."""
        video = self.tokens(start, stop)
        return replace(
            self,
            query_BHSD=self._with_text(self.query_BHSD, video),
            key_BHSD=self._with_text(self.key_BHSD, video),
            value_BHSD=self._with_text(self.value_BHSD, video),
            grid=(stop - start, *self.grid[1:]),
        )

    def attend_to(self, queries: slice, video: slice) -> Tensor:
        """Attention of some tokens to the text and some of the video, (B, H, queries, D)."""
        return self.attend(
            self.query_BHSD[:, :, queries],
            self._with_text(self.key_BHSD, video),
            self._with_text(self.value_BHSD, video),
        )

    def _with_text(self, tokens_BHSD: Tensor, video: slice) -> Tensor:
        return torch.cat([tokens_BHSD[:, :, : self.num_text], tokens_BHSD[:, :, video]], dim=2)


def token_frames(latent_frames: int, num_latent_frames: int, num_token_frames: int) -> int:
    """A length in latent frames as token frames, where a clip has so many of the one and the other.

    Decided: rounded down where patches span two latent frames (CogVideoX 1.5), and at least 1. So a
    stride within a window stays within it.
    """
    return max(1, latent_frames * num_token_frames // num_latent_frames)


def local_attention(work: SelfAttention, radius: int) -> Tensor:
    """Video tokens attend to the text and to frames near in time; the text attends to everything.

    Tokens of token frame f see those of frames f − radius .. f + radius, with positions of the
    whole clip (decided: the text's own queries see all of it). Frame after frame, since a mask over
    1e5 tokens would take 1e10 entries: beside the output, memory holds a copy of the keys and
    values of 2·radius + 1 frames.

    Args:
        work: of one layer; its positions are added.
        radius: in token frames.

    Returns:
        (B, H, S, D).
    """
    work.add_positions()
    num_frames = work.grid[0]
    output_BHSD = torch.empty_like(work.value_BHSD)
    if work.num_text:
        text = slice(work.num_text)
        output_BHSD[:, :, text] = work.attend(
            work.query_BHSD[:, :, text], work.key_BHSD, work.value_BHSD
        )
    for frame in range(num_frames):
        near = work.tokens(max(0, frame - radius), min(frame + radius + 1, num_frames))
        own = work.tokens(frame, frame + 1)
        output_BHSD[:, :, own] = work.attend_to(own, near)
    return output_BHSD


def spectral_attention(work: SelfAttention, radius: int, low_pass_FHW: Tensor) -> Tensor:
    """FreeLong's blend: low frequencies of global attention, high ones of local attention.

    The video's output is LP(global) + HP(local), filtered over (token frames, rows, columns); the
    text's is that of global attention (decided). Evaluated as global + HP(local − global), which is
    exactly the global stream where H is 1. Filtered head by head in float32, so that memory holds
    both streams and the spectrum of one head.

    Args:
        work: of one layer; its positions are added.
        radius: of local attention, in token frames.
        low_pass_FHW: H over the grid, as `glc_ray.core.spectral.gaussian_low_pass` gives it.

    Returns:
        (B, H, S, D).
    """
    output_BHSD = work.full()
    local_BHSD = local_attention(work, radius)
    high_pass_FHW = 1 - low_pass_FHW
    for head in range(output_BHSD.shape[1]):
        global_BSD, local_BSD = (
            stream[:, head, work.num_text :] for stream in (output_BHSD, local_BHSD)
        )
        mixed = frequency_mix(
            _as_video(local_BSD, work.grid), _as_video(global_BSD, work.grid), high_pass_FHW
        )
        global_BSD.copy_(mixed.movedim(2, -1).flatten(1, 3))
    return output_BHSD


def _as_video(tokens_BSD: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Video tokens (B, S, D) as (B, frames, D, rows, columns)."""
    return tokens_BSD.unflatten(1, grid).movedim(-1, 2)


def windowed_attention(
    work: SelfAttention, window_size: int, stride: int, shares_WS1: Tensor | None = None
) -> Tensor:
    """FreeNoise's attention: within windows in time, then averaged.

    Each window of token frames attends to itself and to the text, with positions that start at 0 in
    it. A frame's outputs are averaged with weights 1..m..1 over the window, the text's with equal
    ones (decided: each window gives the text an output). Averages are taken in float32; memory
    holds one window and the sum. One window over all frames is the model's own attention, bit for
    bit.

    Args:
        work: of one layer, without positions.
        window_size, stride: in token frames; the last window ends with the video.
        shares_WS1: as `window_shares` gives them for any layer of the forward; None computes them.

    Returns:
        (B, H, S, D).

    Raises:
        ValueError: the clip is shorter than one window, or the stride leaves gaps.
    """
    windows = _windows(work, window_size, stride)
    if shares_WS1 is None:
        shares_WS1 = window_shares(work, window_size, stride)
    value_BHSD, text = work.value_BHSD, work.num_text
    sum_BHSD = torch.zeros_like(value_BHSD, dtype=_wide(value_BHSD))
    for window, share_S1 in zip(windows, shares_WS1, strict=True):
        first, last = window.frames[0], window.frames[-1]
        output_BHSD = work.clip(first, last + 1).full()
        sum_BHSD[:, :, :text].add_(output_BHSD[:, :, :text], alpha=1 / len(windows))
        sum_BHSD[:, :, work.tokens(first, last + 1)].addcmul_(output_BHSD[:, :, text:], share_S1)
    return sum_BHSD.to(value_BHSD.dtype)


def window_shares(work: SelfAttention, window_size: int, stride: int) -> Tensor:
    """How much each window of `windowed_attention` counts for each of its video tokens.

    They sum to 1 at every frame, so that a single window comes back as it is.

    Args:
        work: of any layer.
        window_size, stride: in token frames.

    Returns:
        (windows, tokens of a window, 1) in float32, or wider where the layer's values are.

    Raises:
        ValueError: the clip is shorter than one window, or the stride leaves gaps.
    """
    num_frames, rows, columns = work.grid
    windows = _windows(work, window_size, stride)
    totals = frame_weights(Path("local", 1.0, windows), num_frames)
    shares = [
        [weight / totals[frame] for frame, weight in zip(w.frames, w.weights, strict=True)]
        for w in windows
    ]
    shares_WF = work.value_BHSD.new_tensor(shares, dtype=_wide(work.value_BHSD))
    return shares_WF.repeat_interleave(rows * columns, dim=1)[..., None]


def _windows(work: SelfAttention, window_size: int, stride: int) -> tuple[Window, ...]:
    weights = triangle_weights(window_size)
    return local_windows(work.grid[0], window_size, stride, weights=weights)


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
