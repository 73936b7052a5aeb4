"""What can be done within a transformer's self-attention layers: anchors, FreeLong, FreeNoise.

Each backbone has an attention processor that turns a layer's work into a `SelfAttention` and hands
it to the mode of its `AttentionControl`; without a mode diffusers' own processor runs.
Layout suffixes: ``B`` batch, ``H`` heads, ``S`` tokens, ``D`` head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from torch import Tensor

from glc_ray.backbones.main_memory import InMainMemory
from glc_ray.core.anchor import blend
from glc_ray.core.attention import (
    SelfAttention,
    spectral_attention,
    token_frames,
    window_shares,
    windowed_attention,
)
from glc_ray.core.spectral import gaussian_low_pass
from glc_ray.protocols import AnchorAttention, SpectralAttention, WindowedAttention


class AttentionMode(Protocol):
    """How self-attention is done in one forward."""

    def __call__(self, layer: str, work: SelfAttention) -> Tensor:
        """The attention's output (B, H, S, D) in layer ``layer``."""
        ...


class AttentionControl:
    """Shared by the processors of one model: the mode of the forward that runs now."""

    def __init__(self) -> None:
        self.is_active = False
        self.grid = (0, 0, 0)
        """Video tokens of a clip: (token frames, rows, columns)."""
        self._mode: AttentionMode | None = None
        self._branch = ""

    @contextmanager
    def using(
        self, mode: AttentionMode | None, grid: tuple[int, int, int], branch: str = ""
    ) -> Iterator[None]:
        """Run forwards of clips with ``grid`` video tokens in ``mode``.

        ``branch`` tells apart forwards of one prediction, where guidance takes two.
        """
        self._mode, self.is_active, self.grid, self._branch = mode, mode is not None, grid, branch
        try:
            yield
        finally:
            self._mode, self.is_active = None, False

    def run(self, layer: str, work: SelfAttention) -> Tensor:
        """One layer's attention in the current mode, (B, H, S, D)."""
        assert self._mode is not None
        return self._mode(f"{self._branch}/{layer}", work)


Kept = Tensor | InMainMemory
AnchorStates = dict[str, tuple[Kept, Kept]]
"""Keys and values (branches, H, S, D) of an anchor's video tokens, by layer."""


class RecordAnchor:
    """Runs the anchor unchanged and keeps its keys and values."""

    def __init__(self, *, on_cpu: bool) -> None:
        self.states: AnchorStates = {}
        self._on_cpu = on_cpu

    def __call__(self, layer: str, work: SelfAttention) -> Tensor:
        video = slice(work.num_text, None)
        # A copy: the layer adds its positions to the keys in place.
        self.states[layer] = (
            self._keep(work.key_BHSD[:, :, video]),
            self._keep(work.value_BHSD[:, :, video]),
        )
        return work.full()

    def _keep(self, tokens_BHSD: Tensor) -> Kept:
        if self._on_cpu and tokens_BHSD.device.type != "cpu":
            return InMainMemory(tokens_BHSD)
        return tokens_BHSD.clone()


class BlendAnchor:
    """Blends every clip's keys and values with those of an anchor that was recorded (Eq. 10)."""

    def __init__(self, states: AnchorStates, options: AnchorAttention) -> None:
        self._states = states
        self._options = options

    def __call__(self, layer: str, work: SelfAttention) -> Tensor:
        for tokens_BHSD, kept_BHSD in zip(
            (work.key_BHSD, work.value_BHSD), self._states[layer], strict=True
        ):
            video_BHSD = tokens_BHSD[:, :, work.num_text :]
            anchor_BHSD = kept_BHSD.to(video_BHSD.device, non_blocking=True)
            own = video_BHSD.unflatten(0, (len(anchor_BHSD), -1))
            _blend_into(own, anchor_BHSD[:, None], self._options)
        return work.full()


class BlendFirst:
    """Blends every clip's keys and values with those of the batch's first clip (Eq. 10)."""

    def __init__(self, num_clips: int, options: AnchorAttention) -> None:
        self._num_clips = num_clips
        self._options = options

    def __call__(self, layer: str, work: SelfAttention) -> Tensor:
        for tokens_BHSD in (work.key_BHSD, work.value_BHSD):
            video = tokens_BHSD[:, :, work.num_text :].unflatten(0, (-1, self._num_clips))
            _blend_into(video[:, 1:], video[:, :1], self._options)
        return work.full()


class SpectralMode:
    """Blends global and local attention by frequency (FreeLong)."""

    def __init__(self, options: SpectralAttention, num_latent_frames: int) -> None:
        """For one forward of clips of ``num_latent_frames``, in which ``options`` are given."""
        self._options = options
        self._num_latent_frames = num_latent_frames
        self._low_pass_FHW: Tensor | None = None

    def __call__(self, layer: str, work: SelfAttention) -> Tensor:
        if self._low_pass_FHW is None:
            low_pass_FHW = gaussian_low_pass(*work.grid, cutoff=self._options.cutoff)
            # One copy to the device for all layers.
            self._low_pass_FHW = low_pass_FHW.to(work.value_BHSD.device)
        radius = token_frames(self._options.radius, self._num_latent_frames, work.grid[0])
        return spectral_attention(work, radius, self._low_pass_FHW)


class WindowedMode:
    """Attends within windows of the clip and averages them (FreeNoise)."""

    def __init__(self, options: WindowedAttention, num_latent_frames: int) -> None:
        """For one forward of clips of ``num_latent_frames``, in which ``options`` are given."""
        self._options = options
        self._num_latent_frames = num_latent_frames
        self._shares_WS1: Tensor | None = None

    def __call__(self, layer: str, work: SelfAttention) -> Tensor:
        window_size, stride = (
            token_frames(length, self._num_latent_frames, work.grid[0])
            for length in (self._options.window_size, self._options.stride)
        )
        if self._shares_WS1 is None:
            # One copy to the device for all layers.
            self._shares_WS1 = window_shares(work, window_size, stride)
        return windowed_attention(work, window_size, stride, self._shares_WS1)


def _blend_into(own: Tensor, anchor: Tensor, options: AnchorAttention) -> None:
    """``own`` (branches, clips, H, S, D), a view of the layer's tokens, is overwritten in place:
    beside the layer's keys and values there is no other tensor of their size."""
    blend(own, anchor, options.weight, literal=options.literal, out=own)
