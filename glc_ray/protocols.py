"""The few types that all rooms share.

Tensor layout suffixes: ``B`` batch, ``F`` latent (or pixel) frames, ``C`` channels, ``H`` height,
``W`` width. The canonical layout is ``BFCHW``; only backbones permute. All window quantities are in
latent frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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
class AnchorAttention:
    """ABAM: keys and values are blended with those of the path's first window (Eq. 10)."""

    weight: float
    """lambda, share of the anchor."""
    literal: bool = False
    """Eq. 10 as printed, in which lambda is the share of the window's own."""
    cache: Literal["device", "cpu", "recompute"] = "device"
    """Where a worker keeps the anchor's keys and values; ``recompute`` keeps none, and the anchor
    rides along in every batch."""

    @property
    def has_share(self) -> bool:
        """Whether the anchor counts for anything; one that does not is never computed."""
        return self.weight != float(self.literal)


@dataclass(frozen=True)
class SpectralAttention:
    """FreeLong: low frequencies of global attention, high ones of local attention."""

    radius: int
    """Local attention sees this many latent frames to either side."""
    cutoff: float
    """Width of the Gaussian low-pass, a share of the Nyquist frequency."""


@dataclass(frozen=True)
class WindowedAttention:
    """FreeNoise at the level of attention: within windows of latent frames, then averaged."""

    window_size: int
    stride: int


Attention: TypeAlias = AnchorAttention | SpectralAttention | WindowedAttention
"""What a method asks of the model's self-attention layers."""

Capability: TypeAlias = Literal[
    "long_clips",
    "anchor_attention",
    "spectral_attention",
    "windowed_attention",
    "dynamic_guidance",
    "second_guidance",
]
"""What a method or an option needs of a backbone. ``long_clips``: a forward may span more latent
frames than the native window. ``second_guidance``: another scale for the low-noise stage."""


@dataclass(frozen=True)
class Path:
    """Windows that are averaged with each other before paths are mixed (Eq. 3)."""

    name: str
    share: float
    """Factor of this path in the fused prediction: gamma or 1 - gamma in GLC (Eq. 9)."""
    windows: tuple[Window, ...]
    attention: Attention | None = None
    """What its forwards ask of the attention layers; None is the model's own attention."""

    @property
    def anchor(self) -> Window | None:
        """The window whose keys and values the others are blended with (ABAM), if there are any."""
        if not isinstance(self.attention, AnchorAttention) or not self.attention.has_share:
            return None
        return self.windows[0] if len(self.windows) > 1 else None

    def batches(self, batch_size: int) -> tuple[tuple[Window, ...], ...]:
        """Windows in groups of at most ``batch_size``, in order; an anchor is alone.

        So whoever computes an anchor, as a window or for its keys and values only, computes the
        same bits.
        """
        first = 0 if self.anchor is None else 1
        rest = self.windows[first:]
        groups = [rest[at : at + batch_size] for at in range(0, len(rest), batch_size)]
        return (*((self.windows[:1],) if first else ()), *groups)


@dataclass(frozen=True)
class StepPlan:
    """Everything that one denoising step asks of the denoisers."""

    step_index: int
    """Position in the sampling loop, from 0."""
    timestep: float
    """The scheduler's value, a train timestep (0..999); flow-matching schedulers have fractions."""
    paths: tuple[Path, ...]

    @property
    def windows(self) -> tuple[Window, ...]:
        """All windows in index order."""
        return tuple(window for path in self.paths for window in path.windows)


@dataclass(frozen=True)
class Forward:
    """What one model forward is asked to do, apart from its tensors: a batch of clips.

    The grouping depends on the plan alone: a batch's composition changes floating-point results, so
    the number of workers must not.
    """

    video: str
    """Specification hash of the video."""
    step_index: int
    timestep: float
    path: str
    windows: tuple[Window, ...]
    """One for each clip, in order."""
    prompt_weights: tuple[tuple[float, ...], ...]
    """For each clip, the weight of each prompt of the timeline; they sum to 1."""
    guidance_scale: float | None
    """Classifier-free guidance; None for the conditional branch alone."""
    attention: Attention | None = None
    anchor: Window | None = None
    """The window whose keys and values its clips are blended with (ABAM)."""
    anchor_prompt_weights: tuple[float, ...] = ()
    """Prompt weights of the anchor."""

    @property
    def is_anchor(self) -> bool:
        """The batch is the anchor itself, which runs unchanged."""
        return self.windows == (self.anchor,)

    @property
    def rides_along(self) -> bool:
        """The anchor is one more clip of the batch, in front of the others."""
        is_recomputed = (
            isinstance(self.attention, AnchorAttention) and self.attention.cache == "recompute"
        )
        return is_recomputed and self.anchor is not None and not self.is_anchor

    @property
    def anchor_key(self) -> tuple[str, int, str]:
        """Whose keys and values: (video, step, path)."""
        return self.video, self.step_index, self.path

    def part(self, clips: slice) -> Forward:
        """The same for some of the clips."""
        return replace(self, windows=self.windows[clips], prompt_weights=self.prompt_weights[clips])


@dataclass(frozen=True)
class StepResult:
    """What a noise scheduler gives back for one step on the full latents, or on some frames."""

    prev_sample: Tensor
    """z_{t-1}, (B, F, C, H, W)."""
    pred_original_sample: Tensor
    """The predicted clean latents x̂0, (B, F, C, H, W)."""
    signal_scale: float
    """Factor of x̂0 in ``prev_sample``: sqrt(ᾱ_{t-1}), or 1 - sigma_{t-1} for flow matching; 1
    after the last step."""


@dataclass(frozen=True)
class Conditioning:
    """The prompts of a video as a backbone understands them, ready to cross processes."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """Named tensors (P, 2, ...): one row a prompt of the timeline, and in it the guidance branches
    [unconditional, conditional]."""


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
    leading_latent_frames: int = 0
    """Latent frames in front that are denoised but not decoded (1 in CogVideoX 1.5, whose patches
    span two)."""
    max_clip_frames: int | None = None
    """Longest clip of one forward in latent frames, where positions end."""
    channels_first_noise: bool = False
    """The model's pipeline draws noise as BCFHW, not BFCHW."""
    low_noise_below: float | None = None
    """Timestep below which a second transformer takes over (Wan 2.2)."""
    capabilities: frozenset[Capability] = frozenset()
    vocabulary: frozenset[str] | None = None
    """The words of a word-level tokenizer; None for a model with an open vocabulary."""

    def num_latent_frames(self, num_frames: int) -> int:
        """Latent frames K to denoise for ``num_frames`` pixel frames (4k+1 for CogVideoX).

        They decode to ``num_frames`` frames, or to one latent frame's more where K must be odd.
        Leading frames come on top.
        """
        num_latent_frames = (num_frames - 1) // self.temporal_ratio + 1
        num_latent_frames += int(self.odd_latent_frames and num_latent_frames % 2 == 0)
        return num_latent_frames + self.leading_latent_frames

    def latents_shape(self, num_frames: int) -> tuple[int, int, int, int, int]:
        """(1, K, C, H, W) of a video of ``num_frames`` pixel frames at the native size."""
        height, width = self.height // self.spatial_ratio, self.width // self.spatial_ratio
        return 1, self.num_latent_frames(num_frames), self.latent_channels, height, width

    def num_frames(self, num_latent_frames: int) -> int:
        """Pixel frames that ``num_latent_frames`` decode to, leading ones among them."""
        return (num_latent_frames - self.leading_latent_frames - 1) * self.temporal_ratio + 1


class NoiseSource(Protocol):
    """The randomness of one video, drawn in a fixed order."""

    def normal(self, shape_BFCHW: tuple[int, ...]) -> Tensor:
        """Independent Gaussian noise, float32."""
        ...

    def permutation(self, size: int) -> list[int]:
        """A random order of 0..size - 1."""
        ...


@dataclass(frozen=True)
class SchedulerState:
    """What a noise scheduler keeps between two steps, as a file of tensors and JSON holds it."""

    tensors: Mapping[str, Tensor]
    """Earlier latents and predictions, (B, F, C, H, W), and the generator's state in uint8; shared
    with the scheduler, and so not to be written into. One may be the latents themselves."""
    values: Mapping[str, Any]
    """JSON scalars and lists of them, of finite numbers."""


class NoiseScheduler(Protocol):
    """A diffusers scheduler, reduced to what the loop needs: timesteps, one step, its memory."""

    @property
    def timesteps(self) -> tuple[float, ...]: ...

    @property
    def ends_framewise(self) -> bool:
        """Whether the last step treats every latent frame by itself."""
        ...

    def of_frames(self, frames: slice) -> NoiseScheduler:
        """One that ends framewise, before its last step, for some frames alone."""
        ...

    def step(self, prediction: Tensor, step_index: int, latents: Tensor) -> StepResult: ...

    def state(self) -> SchedulerState:
        """All that later steps depend on, but for the latents; it stays as it is while they run."""
        ...

    def restore(self, state: SchedulerState) -> None:
        """Go on where the state was taken, here or in another process, with the same bits.

        Raises:
            ValueError: it is that of another scheduler, number of steps or setting.
        """
        ...


class Backbone(Protocol):
    """A loaded denoising model: guided predictions for clips."""

    facts: ModelFacts
    anchor_forwards: int
    """Forwards so far that only filled the anchor cache (ABAM)."""

    def encode_prompts(self, prompts: tuple[str, ...], negative_prompt: str) -> Conditioning: ...

    def predict(
        self,
        clips_BFCHW: Tensor,
        forward: Forward,
        conditioning: Conditioning,
        anchor_BFCHW: Tensor | None = None,
    ) -> Tensor:
        """The guided model output of each clip, float32, same shape as ``clips``.

        Args:
            clips_BFCHW: (N, L, C, H, W).
            forward: what to do with them.
            conditioning: of the video's prompts.
            anchor_BFCHW: the clip (1, L, C, H, W) of the path's anchor, where ``forward`` asks for
                `AnchorAttention` and is not the anchor itself.
        """
        ...


class Denoiser(Protocol):
    """Gives the prediction of every window of a plan, wherever it is computed."""

    def denoise(self, latents_BFCHW: Tensor, plan: StepPlan) -> Iterable[tuple[Window, Tensor]]:
        """Yield (window, prediction (1, L, C, H, W) in float32) in window-index order."""
        ...


class Method(Protocol):
    """What distinguishes one long-video method from another: noise, plan, update."""

    requires: frozenset[Capability]
    """What a backbone must be capable of."""
    reach: int
    """Latent frames to either side that ``update`` of a frame depends on."""

    def initial_noise(self, shape_BFCHW: tuple[int, ...], noise: NoiseSource) -> Tensor: ...

    def plan(self, step_index: int, timestep: float) -> StepPlan: ...

    def update(self, result: StepResult, first_frame: int = 0) -> Tensor:
        """The latents that the next step starts from, (1, F, C, H, W).

        ``result`` may be of some frames of the video, from ``first_frame`` on; then those are right
        that are more than ``reach`` frames from a border that is not the video's.
        """
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


@dataclass(frozen=True)
class DecoderFacts:
    """What is known of a causal video VAE's decoder from its configuration files alone."""

    batch_size: int
    """Latent frames that are decoded together, 1 or 2; the first batch takes the rest as well."""
    temporal_ratio: int
    """Pixel frames per latent frame; in a first batch of odd length the first latent gives one."""
    spatial_ratio: int
    """Pixels per latent along height and width."""
    exact_warmup: int
    """Latent frames after which a decode that began without caches is bit-equal to one that began
    at frame 0, whatever the weights: as far as an output frame can see back."""
    tiles: TileGeometry | None = None
    """Tile geometry; None decodes the whole picture as one tile."""

    @property
    def least_warmup(self) -> int:
        """Latent frames that a decode must begin before another frame than 0, where an odd batch
        would give the frames of a video's beginning."""
        return self.batch_size % 2

    def temporal_batches(self, num_latent_frames: int) -> Iterator[slice]:
        """Slices of latent frames that must be decoded together, in order (a decode is exactly
        reproducible only with the same temporal batches)."""
        size = self.batch_size
        start, stop = 0, num_latent_frames % size + (size if num_latent_frames >= size else 0)
        while start < num_latent_frames:
            yield slice(start, stop)
            start, stop = stop, stop + size

    def frames_before(self, latent_frame: int, num_latent_frames: int) -> int:
        """Pixel frames before the temporal batch that starts at ``latent_frame``, in a video of
        ``num_latent_frames``; of all of them the video's length."""
        if latent_frame == 0:
            return 0
        first = next(self.temporal_batches(num_latent_frames))
        lone = first.stop % 2
        return self.temporal_ratio * (latent_frame - lone) + lone


class FrameDecoder(Protocol):
    """A causal video VAE's decoder, one temporal batch of one tile at a time."""

    facts: DecoderFacts
    device: torch.device
    """Where ``decode_tile`` takes latents and leaves pixels."""

    def decode_tile(self, latents_BFCHW: Tensor, cache: Any | None) -> tuple[Tensor, Any]:
        """Decode one temporal batch of one tile.

        ``cache`` is what the previous batch of the same tile returned (None for the first).
        Returns pixels (B, frames, 3, height, width) in [-1, 1] on the decoder's device, and the
        cache for the tile's next batch.
        """
        ...
