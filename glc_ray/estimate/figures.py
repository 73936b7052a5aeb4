"""The figures of a plan: what ``--json`` prints. Units are in the names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PerStep:
    """A count that changes from step to step."""

    least: int
    most: int
    total: int
    """Over all steps."""

    @classmethod
    def of(cls, counts: list[int]) -> PerStep:
        """From the count of each step; at least one."""
        return cls(min(counts), max(counts), sum(counts))


@dataclass(frozen=True)
class VideoFigures:
    """What is asked for."""

    name: str
    specification_hash: str
    pipeline: str
    method: str
    prompt: str
    seed: int
    num_frames: int
    num_latent_frames: int
    height: int
    width: int
    window_size: int
    """The model's native window, in latent frames."""
    num_steps: int


@dataclass(frozen=True)
class PathFigures:
    """The windows of one path."""

    path: str
    clip_frames: int
    """Latent frames of a clip."""
    windows: PerStep
    """Forwards, where a batch counts as many as it has clips."""
    batches: PerStep
    flops_per_window: int
    """Of a guided forward of one clip, all branches."""


@dataclass(frozen=True)
class ForwardFigures:
    """Model forwards; those that only fill an anchor cache come on top (`WorkerFigures`)."""

    paths: tuple[PathFigures, ...]
    windows: PerStep
    batches: PerStep
    guidance_branches: int
    flops: int
    """Of all windows of all steps."""


@dataclass(frozen=True)
class AnchorCacheFigures:
    """What a worker keeps of one video's anchor."""

    placement: str
    """glc.abam.cache: device, cpu or recompute."""
    is_chosen: bool
    device_bytes: int
    cpu_bytes: int


@dataclass(frozen=True)
class MemoryFigures:
    """Bytes that a worker, a coordinator and a decoder hold."""

    weights_bytes: int
    """Of the transformer or transformers as they are kept, exactly."""
    weights_at_once_bytes: int
    """Those of them that are on the device; all but for group offloading, then an estimate."""
    text_encoder_bytes: int
    """On the worker that encodes the prompts: on the device for that time and in main memory from
    then on; exactly."""
    activations_bytes: int
    """Of the largest batch, an estimate (`ModelCost.activation_bytes`)."""
    anchor_caches: tuple[AnchorCacheFigures, ...]
    """Exactly, for each placement; empty without anchor attention."""
    denoising_device_bytes: int
    """On a worker's device in all while it denoises: weights, activations, anchor caches."""
    encoding_device_bytes: int
    """On the device of the worker that encodes the prompts: weights and the text encoder."""
    vae_bytes: int
    """A decoder's weights, exactly; its activations are not estimated."""
    latents_bytes: int
    """The full latents in float32, in the coordinator; fusion holds two more of this size."""
    checkpoint_bytes: int
    """Latents and the noise scheduler's history, an estimate."""


@dataclass(frozen=True)
class TrafficFigures:
    """Bytes of the arrays that cross processes, exactly; float32."""

    clips_bytes: PerStep
    predictions_bytes: PerStep
    anchors_bytes: PerStep
    """Of anchors' clips, which all batches of a path share."""


@dataclass(frozen=True)
class WorkerFigures:
    """The simulation of all steps on so many workers."""

    workers: int
    is_chosen: bool
    """As many as the job has."""
    anchor_forwards: PerStep
    anchor_flops: int
    total_s: float | None
    """Denoising, with what is known of the coordinator's part; None where unknown."""
    speed_up: float | None
    """In ``total_s``, against one worker."""
    denoise_s: float | None
    """Waiting for predictions, over all steps; None where the seconds of a forward are unknown."""
    coordinator_s: float | None
    """Fusion, the noise scheduler and refinement, over all steps; None where not measured."""
    busy_share: float
    """Part of the workers' time in which they compute, 0..1, while windows are denoised."""


@dataclass(frozen=True)
class BatchSeconds:
    """A batch that was timed."""

    path: str
    num_clips: int
    is_anchor: bool
    median_s: float
    fastest_s: float
    slowest_s: float


@dataclass(frozen=True)
class TimingFigures:
    """Where the seconds come from."""

    source: str
    """stated or measured."""
    seconds_per_window: float
    """Of one window of the first path, guided; measured: the mean over the job's windows."""
    batches: tuple[BatchSeconds, ...] = ()
    coordinator_step_s: float | None = None


@dataclass(frozen=True)
class Estimate:
    """Everything that is known before the first forward."""

    video: VideoFigures
    forwards: ForwardFigures
    memory: MemoryFigures
    traffic: TrafficFigures
    timing: TimingFigures | None
    workers: tuple[WorkerFigures, ...]
    notes: tuple[str, ...]
