"""The few types that all rooms share.

Tensor layout suffixes: ``B`` batch, ``F`` latent (or pixel) frames, ``C`` channels, ``H`` height,
``W`` width. The canonical layout is ``BFCHW``; only backbones permute. All window quantities are in
latent frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor


class UserError(Exception):
    """A mistake that the person at the keyboard can mend: shown as text, exit code 2, no traceback.

    The message names the key, the value, what is allowed and what to do next.
    """


@dataclass(frozen=True)
class Window:
    """The latent frames that one model forward sees, and how much each one counts in fusion."""

    index: int
    """Position in the step's plan: predictions are accumulated in this order, never on arrival."""
    path: str
    """The path that it belongs to, ``"global"`` or ``"local"``; a batch holds windows of one."""
    frames: tuple[int, ...]
    """Source latent frame of each clip position; padding repeats the video's last frame."""
    weights: tuple[float, ...]
    """Linear fusion weight of each clip position; 0 on padding, whose predictions are dropped."""


@dataclass(frozen=True)
class Path:
    """Windows that are averaged with each other before paths are mixed (Eq. 3)."""

    name: str
    share: float
    """Factor of this path in the fused prediction: gamma or 1 - gamma in GLC (Eq. 9)."""
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class StepPlan:
    """Everything that one denoising step asks of the denoisers."""

    step_index: int
    """Position in the sampling loop, from 0."""
    timestep: int
    """The scheduler's value, a train timestep (0..999)."""
    paths: tuple[Path, ...]

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows in index order."""
        return tuple(window for path in self.paths for window in path.windows)

    def batches(self, batch_size: int) -> tuple[tuple[Window, ...], ...]:
        """Windows in groups of at most ``batch_size``, each of one path, in index order.

        The grouping depends on the plan alone: a batch's composition changes floating-point
        results, so the number of workers must not.
        """
        return tuple(
            path.windows[start : start + batch_size]
            for path in self.paths
            for start in range(0, len(path.windows), batch_size)
        )


@dataclass(frozen=True)
class StepResult:
    """What a noise scheduler gives back for one step on the full latents."""

    prev_sample: Tensor
    """z_{t-1}, (B, F, C, H, W)."""
    pred_original_sample: Tensor
    """The predicted clean latents x̂0, (B, F, C, H, W)."""
    alpha_cumprod_prev: float
    """ᾱ_{t-1}: the squared signal share of ``prev_sample``; 1 after the last step."""


@dataclass(frozen=True)
class Conditioning:
    """A prompt as a backbone understands it, ready to cross processes."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Named tensors whose first dimension is the guidance branch: [unconditional, conditional]."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model from its configuration files alone, before any weight is read."""

    window_size: int
    """Native window L in latent frames."""
    temporal_ratio: int
    """Pixel frames per latent frame, after the first: num_frames = ratio * k + 1."""
    spatial_ratio: int
    """Pixels per latent along height and width."""
    latent_channels: int
    height: int
    """Native height in pixels."""
    width: int
    """Native width in pixels."""
    odd_latent_frames: bool = False
    """The VAE gives 4(K-1)+1 frames for odd K only (CogVideoX gives 4K for even K)."""
    capabilities: frozenset[str] = frozenset()
    vocabulary: frozenset[str] | None = None
    """The words of a word-level tokenizer; None for a model with an open vocabulary."""

    def num_latent_frames(self, num_frames: int) -> int:
        """Latent frames K to denoise for ``num_frames`` pixel frames (4k+1 for CogVideoX).

        They decode to ``num_frames`` frames, or to one latent frame's more where K must be odd.
        """
        num_latent_frames = (num_frames - 1) // self.temporal_ratio + 1
        return num_latent_frames + int(self.odd_latent_frames and num_latent_frames % 2 == 0)

    def latents_shape(self, num_frames: int) -> tuple[int, int, int, int, int]:
        """(1, K, C, H, W) of a video of ``num_frames`` pixel frames at the native size."""
        height, width = self.height // self.spatial_ratio, self.width // self.spatial_ratio
        return 1, self.num_latent_frames(num_frames), self.latent_channels, height, width

    def num_frames(self, num_latent_frames: int) -> int:
        """Pixel frames that ``num_latent_frames`` decode to."""
        return (num_latent_frames - 1) * self.temporal_ratio + 1


class NoiseScheduler(Protocol):
    """A diffusers scheduler, reduced to what the loop needs: timesteps and one step."""

    @property
    def timesteps(self) -> tuple[int, ...]: ...

    def step(self, prediction: Tensor, step_index: int, latents: Tensor) -> StepResult: ...


class Backbone(Protocol):
    """A loaded denoising model: guided predictions for clips of native length."""

    facts: ModelFacts

    def encode_prompt(self, prompt: str, negative_prompt: str) -> Conditioning: ...

    def predict(
        self, clips_BFCHW: Tensor, timestep: int, conditioning: Conditioning, guidance_scale: float
    ) -> Tensor:
        """The guided model output of each clip, float32, same shape and device as ``clips``."""
        ...


class Denoiser(Protocol):
    """Gives the prediction of every window of a plan, wherever it is computed."""

    def denoise(self, latents_BFCHW: Tensor, plan: StepPlan) -> Iterable[tuple[Window, Tensor]]:
        """Yield (window, prediction (1, L, C, H, W) in float32) in window-index order."""
        ...


class Method(Protocol):
    """What distinguishes one long-video method from another: noise, plan, update."""

    requires: frozenset[str]
    """Capabilities that a backbone must have."""

    def initial_noise(self, shape_BFCHW: tuple[int, ...], generator: Generator) -> Tensor: ...

    def plan(self, step_index: int, timestep: int) -> StepPlan: ...

    def update(self, result: StepResult) -> Tensor:
        """The latents that the next step starts from."""
        ...


@dataclass(frozen=True)
class TileAxis:
    """How a VAE's tiled decode divides one side of the picture, as integers that it computes."""

    latent_size: int
    """Side of a tile in latent cells."""
    latent_stride: int
    """Latent cells from the start of a tile to the start of the next."""
    blend_extent: int
    """Pixels over which a tile fades in over the one before it."""
    limit: int
    """Leading pixels of each tile that make up the picture (diffusers' ``row_limit``)."""


@dataclass(frozen=True)
class TileGeometry:
    """Spatial tiles of a VAE decode."""

    height: TileAxis
    width: TileAxis


class FrameDecoder(Protocol):
    """A causal video VAE's decoder, one temporal batch of one tile at a time."""

    tiles: TileGeometry | None
    """Tile geometry; None decodes the whole picture as one tile."""
    device: torch.device
    """Where ``decode_tile`` takes latents and leaves pixels."""

    def temporal_batches(self, num_latent_frames: int) -> Iterator[slice]:
        """Slices of latent frames that must be decoded together, in order (a decode is exactly
        reproducible only with the same temporal batches)."""
        ...

    def decode_tile(self, latents_BFCHW: Tensor, cache: Any | None) -> tuple[Tensor, Any]:
        """Decode one temporal batch of one tile.

        ``cache`` is what the previous batch of the same tile returned (None for the first).
        Returns pixels (B, frames, 3, height, width) in [-1, 1] on the decoder's device, and the
        cache for the tile's next batch.
        """
        ...
