"""The job specification: frozen, validated, with a content hash.

Everything under ``PipelineSpec`` but ``resources``, ``preview``, ``name`` and ``description`` may
change the bits of a video and is part of its hash; ``resources`` says only where the work is done.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

FORMAT_VERSION = 3
"""Part of every specification hash; raised when the same specification gives other bits."""

Count = Annotated[int, Field(ge=1, lt=2**31)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Share = Annotated[float, Field(ge=0)]
Dtype = Literal["float32", "bfloat16", "float16"]


def _on_off(value: Any) -> Any:
    return ("on" if value else "off") if isinstance(value, bool) else value


OnOff = BeforeValidator(_on_off)
"""For choices that are called on and off: YAML takes the bare words for true and false."""


class _Spec(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        # So that a default hashes as the same value read back from JSON: 8.0, not 8.
        validate_default=True,
    )


class _Switch(_Spec):
    """A section that true and false turn on and off."""

    enabled: bool = True
    """Whether it takes part; ``section: false`` is short for ``section: {enabled: false}``."""

    @model_validator(mode="before")
    @classmethod
    def _from_bool(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else value


class ModelSpec(_Spec):
    """Which diffusion model, and in which precision."""

    backbone: Literal["cogvideox", "wan"] = "cogvideox"
    """The adapter that loads it."""
    path: str
    """A folder in diffusers' format, a hub id, or package:NAME for an embedded model."""
    revision: str | None = None
    """Commit or tag of a hub id."""
    dtype: Dtype = "float32"
    """Precision of weights and activations in the denoiser, and in the VAE unless decode.dtype says
    otherwise."""
    clip_frames: Count | None = None
    """Pixel frames of the native clip; none is what the model's files say (Wan's do not)."""
    height: Count | None = None
    """Height in pixels; none is what the model's files say (Wan's do not)."""
    width: Count | None = None
    """Width in pixels; none is what the model's files say (Wan's do not)."""


_STEP_CACHES = (
    "faster_cache",
    "first_block_cache",
    "mag_cache",
    "pyramid_attention_broadcast",
    "sea_cache",
    "taylorseer_cache",
)
_STEP_CACHE = (
    "diffusers' caches keep features of the last forward within the transformer, for the same clip "
    "one step later; here windows move at every step and go to whichever worker is free, so a "
    "window would get another's features, and the video would depend on the number of workers; "
    "use off"
)
_TEXT_CACHE = (
    "diffusers' text cache tells prompts apart by where they lie in memory, where another window's "
    "may lie next, and serves NucleusMoE's transformer alone; use off"
)


class OptimizeSpec(_Spec):
    """Memory and speed options that diffusers has, for the denoising model."""

    compile: bool = False
    """torch.compile of the transformer's repeated blocks."""
    attention_backend: str | None = None
    """One of diffusers' attention backends; none is torch's own choice."""
    group_offload: Annotated[Literal["off", "block_level", "leaf_level"], OnOff] = "off"
    """Keep weights in main memory and bring them to the device group by group."""
    layerwise_casting: Annotated[Literal["off", "float8_e4m3fn", "float8_e5m2"], OnOff] = "off"
    """Store weights in 8 bits and compute in model.dtype."""
    cache: Annotated[Literal["off"], OnOff] = "off"
    """Reuse of features from step to step: off is the only choice that is right with windows."""

    @field_validator("cache", mode="before")
    @classmethod
    def _refuse_caches(cls, value: Any) -> Any:
        if value == "text_kv_cache":
            raise PydanticCustomError("cache", _TEXT_CACHE)
        if value in _STEP_CACHES:
            raise PydanticCustomError("cache", _STEP_CACHE)
        return value


class VideoSpec(_Spec):
    """The picture."""

    num_frames: Annotated[int, Field(ge=1, le=100_001)] = 145
    """Pixel frames of the long video; 4k+1 for CogVideoX."""
    fps: Annotated[float, Field(gt=0, le=240)] = 8
    """Frames per second of the file."""


Scheduler = Literal[
    "model",
    "CogVideoXDDIMScheduler",
    "CogVideoXDPMScheduler",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "UniPCMultistepScheduler",
]


class SamplingSpec(_Spec):
    """The denoising loop."""

    num_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Denoising steps."""
    scheduler: Scheduler = "model"
    """A noise scheduler of diffusers; model is the one in the model's own files."""
    scheduler_options: dict[str, bool | int | float | str] = {}
    """Settings of the noise scheduler in place of the model's, by diffusers' names."""
    guidance_scale: Annotated[float, Field(ge=1)] = 6.0
    """Classifier-free guidance; 1 turns it off."""
    guidance_scale_2: Annotated[float, Field(ge=1)] | None = None
    """Of the low-noise transformer where there are two (Wan 2.2); none is guidance_scale."""
    dynamic_guidance: bool = False
    """Guidance that changes with the timestep, as CogVideoX's use_dynamic_cfg."""
    negative_prompt: Annotated[str, Field(max_length=20_000)] = ""
    """What guidance leads away from."""
    transition_frames: Annotated[int, Field(ge=0)] = 16
    """Pixel frames over which one prompt of a timeline passes into the next."""


class GammaSpec(_Spec):
    """gamma(t) = gamma0 * exp(beta * t): share of the global path (Eq. 9)."""

    preset: Literal["paper", "annealed"] = "paper"
    """paper: 0.005, 0.0005 as printed; annealed: beta 0.005, strong early and gone late."""
    gamma0: Annotated[float, Field(ge=0, le=1)] | None = None
    """In place of the preset's."""
    beta: float | None = None
    """In place of the preset's."""


class NoiseReinitSpec(_Switch):
    """Initial noise by local shuffle and frequency fusion (Eq. 11); plain noise if off."""

    chunk: Count | None = None
    """Latent frames shuffled together; none is 4, or the window if that is shorter."""
    order: Count = 4
    """Order of the Butterworth low-pass."""
    spatial_cutoff: Annotated[float, Field(gt=0)] = 0.25
    """Its cut-off along height and width, a share of the Nyquist frequency."""
    temporal_cutoff: Annotated[float, Field(gt=0)] = 0.25
    """Its cut-off along frames, a share of the Nyquist frequency."""


class ABAMSpec(_Switch):
    """Anchor attention (Eq. 10): keys and values are blended with the path's first window's."""

    weight: Annotated[float, Field(ge=0, le=1)] = 0.1
    """lambda, share of the anchor."""
    literal: bool = False
    """Eq. 10 as printed, in which lambda is the share of the window's own."""
    cache: Literal["device", "cpu", "recompute"] = "device"
    """Where a worker keeps the anchor's keys and values; recompute keeps none and computes the
    anchor with every batch (other last bits)."""


class VMCRSpec(_Switch):
    """Video motion consistency refinement after each step (Eq. 12-15)."""

    weight: Share = 2e-5
    """Step length omega (Eq. 15)."""
    frequency: Share = 0.2
    """lambda_f, weight of the frequency-wise loss (Eq. 13)."""
    mse: Share = 0.001
    """lambda_mse, weight of the squared difference of motions (Eq. 12)."""
    phase: Share = 1.0
    """lambda_phase, weight of the phase difference (Eq. 14)."""


class GLCSpec(_Spec):
    """GLC-Diffusion and its ablation switches; without either path, all frames in one window."""

    global_path: bool = True
    """Dilated windows over the whole video (Eq. 4, 5)."""
    local_path: bool = True
    """Overlapping windows with a random shift (Eq. 6, 7)."""
    stride: Count | None = None
    """Between local windows, in latent frames; none is half a window."""
    gamma: GammaSpec = GammaSpec()
    """Share of the global path."""
    noise_reinit: NoiseReinitSpec = NoiseReinitSpec()
    """Correlated initial noise; false: plain noise."""
    abam: ABAMSpec = ABAMSpec()
    """Anchor attention; false: every window by itself."""
    vmcr: VMCRSpec = VMCRSpec()
    """Refinement of the motion; false: none."""


class GenLVideoSpec(_Spec):
    """Gen-L-Video: overlapping windows, plain average."""

    stride: Count | None = None
    """Between windows, in latent frames; none is half a window."""


class FreeNoiseSpec(_Spec):
    """FreeNoise: shuffled noise and windows whose weights rise to the middle."""

    stride: Count = 4
    """Between windows, in latent frames."""
    chunk: Count | None = None
    """Latent frames of noise shuffled together; none is 4, or the window if that is shorter."""
    level: Literal["auto", "attention", "prediction"] = "auto"
    """Where windows are averaged; auto is within attention where the model's positions allow it
    (rotary), and in the prediction elsewhere."""


class FreeLongSpec(_Spec):
    """FreeLong: one window, attention blended from global and local by frequency."""

    radius: Count = 8
    """Local attention sees this many latent frames to either side."""
    cutoff: Annotated[float, Field(gt=0)] = 0.25
    """Width of the Gaussian low-pass, a share of the Nyquist frequency."""


class DenoiseSpec(_Spec):
    """How windows are computed; both change the last bits, so they are part of the hash."""

    batch_size: Count = 1
    """Windows of one path in one forward."""
    threads: Threads = 1
    """CPU threads of one denoiser."""


class FuseSpec(_Spec):
    """Fusion, scheduler step and refinement in the coordinator."""

    threads: Threads = 1
    """CPU threads of one coordinator."""


class DecodeSpec(_Spec):
    """VAE decode."""

    dtype: Dtype | None = None
    """Precision of weights and activations in the VAE; none is model.dtype."""
    tiling: Annotated[Literal["auto", "on", "off"], OnOff] = "auto"
    """on decodes pictures larger than one tile in tiles, as diffusers does, off never does; auto
    does so where the VAE's tiles make up the picture without gaps."""
    tile_height: Count | None = None
    """Pixels of a tile; none is the VAE's own."""
    tile_width: Count | None = None
    """Pixels of a tile; none is the VAE's own."""
    tile_overlap: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of a tile that overlaps the next; none is the VAE's own."""
    threads: Threads = 1
    """CPU threads of one decoder."""
    segment: Count | None = None
    """Latent frames of a segment, which is encoded by itself and made again by itself after a
    failure; none is 60."""
    warmup: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """Latent frames decoded and dropped in front of a stretch. None is what makes it bit-equal to a
    decode of the whole video, whatever the weights: 76 for CogVideoX, 38 for Wan, 44 for toyworld.
    With fewer the last bits depend on the number of decoders. Largest error measured, where half an
    8-bit level is 3.9e-3: CogVideoX 5e-3 at 14, 3e-4 at 18, 7e-6 at 24 (random weights); Wan 3e-2
    at 20, 1.4e-3 at 25, 3e-5 at 30 (random weights); toyworld 4e-3 at 10, 2e-4 at 14, 4e-6 at 18.
    From there on what is left is rounding, which ends only with the bound."""
    parallel: Literal["auto", "videos", "tiles", "stretches"] = "auto"
    """What several decoders share: whole videos, the tiles of a picture or stretches of time; auto
    takes what is estimated to be fastest. Bit-equal, unless warmup is short."""


VideoFormat = Literal[
    "h264", "h265", "vp9", "av1", "prores", "ffv1", "png", "tiff", "exr", "webp", "gif"
]


def _whole_number_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


class EncodeSpec(_Spec):
    """How frames become a file; what each key may be depends on the format and the ffmpeg."""

    format: VideoFormat = "h264"
    """h264, h265 and av1 (MP4) and vp9 (WebM) to watch; prores (QuickTime) and ffv1 (Matroska,
    lossless) to edit; png, tiff (16 bit) and exr (half float, linear light): folders of frames;
    webp and gif: previews."""
    encoder: str | None = None
    """One of ffmpeg's encoders for the format, for example h264_nvenc; none is the software one."""
    crf: Annotated[int, Field(ge=0)] | None = None
    """Quality, lower is better, in the encoder's own range; none is the format's default (h264:
    18 of 0 to 51)."""
    preset: Annotated[str, BeforeValidator(_whole_number_text)] | None = None
    """Effort for size, by the encoder's own names; none is the format's default (h264: medium)."""
    pix_fmt: str | None = None
    """ffmpeg's name of the stored pixels, which says bit depth and colour resolution; none is the
    format's default (h264: yuv420p)."""
    threads: Threads = 2
    """CPU threads of the encoder; part of the bytes of the file."""
    frames: tuple[Annotated[int, Field(ge=0)], Count] | None = None
    """First pixel frame and the one after the last; none is the whole video."""
    crop: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Count, Count] | None = (
        None
    )
    """Left, top, width and height in pixels of what is encoded; none is the whole picture."""


_OWN_KEYS = {
    "CPU": "use num_cpus",
    "GPU": "use num_gpus",
    "memory": "leave it out",
    "object_store_memory": "leave it out",
}
"""What Ray knows by itself, and what to do instead."""


def _is_custom(resources: dict[str, float]) -> dict[str, float]:
    for name, amount in resources.items():
        if name in _OWN_KEYS:
            raise PydanticCustomError(
                "custom", f"nodes are not started with {name} as something else; {_OWN_KEYS[name]}"
            )
        if amount > 1 and not amount.is_integer():
            raise PydanticCustomError("custom", "it takes shares of one, or whole numbers")
    return resources


CustomResources = Annotated[
    dict[Annotated[str, Field(min_length=1)], Annotated[float, Field(gt=0)]],
    AfterValidator(_is_custom),
]


class PreviewSpec(_Spec):
    """Pictures of a video while it is denoised; they never change a bit of it.

    Off unless it is asked for: a process of its own has to load the VAE, which a short video on a
    small machine would feel, and nobody looks at most videos of a catalog.
    """

    every: Annotated[int, Field(ge=0)] = 0
    """Steps from one preview to the next, --preview-every; 0 is none. One that is due while the
    last is not done yet is left out."""
    frames: Annotated[int, Field(ge=1, le=16)] = 4
    """Pictures of a preview, from the beginning of the video to its end."""


class ActorResources(_Spec):
    """How many actors of a kind, and what each takes of a node."""

    count: Count = 1
    """Actors of this kind."""
    num_cpus: Share = 1
    """Logical CPUs each."""
    num_gpus: Share = 0
    """GPUs each; fractions share one."""
    custom: CustomResources = {}
    """What else each takes, such as {denoiser: 1}: only nodes that were started with it have it."""


class DenoiserResources(ActorResources):
    """The pool, and when one of it is given up."""

    patience: Annotated[float, Field(gt=1)] = 10
    """A denoiser that takes this many times as long as is usual for a batch is replaced."""
    least_patience_s: Annotated[float, Field(gt=0)] = 600
    """But none is before this many seconds: a first batch may wait for a compiler. While no batch
    has been answered yet, each replacement has twice as long as the one before."""


class DecoderResources(ActorResources):
    """By default decoders share the denoisers' CPUs and reserve none of their own."""

    num_cpus: Share = 0
    """Logical CPUs each."""


class CoordinatorResources(_Spec):
    """How many coordinators, and what each takes of a node."""

    count: Count = 2
    """Coordinators: videos denoised at once, so that the fusion of one is the others' compute."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """What the videos that are denoised at once may take in all, so that fewer are where they are
    long; none is half of the memory of the cluster's largest node."""
    num_cpus: Share = 0
    """Logical CPUs each."""
    custom: CustomResources = {}
    """What else each takes, such as {coordinator: 1}."""


class PreviewerResources(_Spec):
    """Of the process that decodes previews, one a run, where they are asked for."""

    num_cpus: Share = 0
    """Logical CPUs."""
    num_gpus: Share = 0
    """GPUs; a share leaves the rest to a denoiser. 0 decodes on one CPU thread, at the lowest
    priority and in float32."""
    custom: CustomResources = {}
    """What else it takes, such as {previewer: 1}."""


class CheckpointSpec(_Spec):
    """How often the state of a video that is denoised is stored, between two steps."""

    interval: Count = 1
    """Steps from one to the next, at least."""
    interval_s: Share = 0
    """Seconds from one to the next, at least."""
    max_share: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of a video's time that writing may take; what would take more waits. 0 writes none but
    when the run is stopped."""


LogFormat = Literal["text", "json"]
LOG_FORMATS: tuple[str, ...] = get_args(LogFormat)


class ResourcesSpec(_Spec):
    """Where the work is done; on machines of one kind it never changes a bit of the result."""

    denoisers: DenoiserResources = DenoiserResources()
    """Window forwards; count is --workers."""
    coordinators: CoordinatorResources = CoordinatorResources()
    """Videos denoised at once."""
    decoders: DecoderResources = DecoderResources()
    """Videos decoded and encoded at once."""
    previewer: PreviewerResources = PreviewerResources()
    """Pictures of videos while they are denoised."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """What is stored in the middle of a video, so that it goes on there after a crash."""
    wait_for_nodes: bool = False
    """Start even where not all actors fit yet: the cluster grows by itself."""
    telemetry: bool = True
    """Count what happens, for Prometheus to fetch from Ray's agents."""
    log_format: LogFormat = "text"
    """Of the lines that actors log, into Ray's files: text or json; --log-format."""


class TimedPrompt(_Spec):
    """What a video shows from a frame on."""

    at_frame: Annotated[int, Field(ge=0)]
    """First pixel frame; 0 for the first prompt."""
    text: str
    """The prompt."""


Method = Literal["glc", "direct", "gen_l_video", "freenoise", "freelong"]
METHODS: tuple[str, ...] = get_args(Method)


class PipelineSpec(_Spec):
    """A pipeline file."""

    name: str
    """How --pipeline calls it."""
    description: str = ""
    """One line for people."""
    prompt: str | None = None
    """Rendered when no prompt is given."""
    prompts: tuple[TimedPrompt, ...] = ()
    """A timeline in place of ``prompt``: what the video shows from which frame on."""
    model: ModelSpec
    """The diffusion model."""
    optimize: OptimizeSpec = OptimizeSpec()
    """Memory and speed of the diffusion model."""
    video: VideoSpec = VideoSpec()
    """The picture."""
    sampling: SamplingSpec = SamplingSpec()
    """The denoising loop."""
    method: Method = "glc"
    """The long-video method."""
    glc: GLCSpec = GLCSpec()
    """Options of --method glc."""
    gen_l_video: GenLVideoSpec = GenLVideoSpec()
    """Options of --method gen_l_video."""
    freenoise: FreeNoiseSpec = FreeNoiseSpec()
    """Options of --method freenoise."""
    freelong: FreeLongSpec = FreeLongSpec()
    """Options of --method freelong."""
    denoise: DenoiseSpec = DenoiseSpec()
    """How windows are computed."""
    fuse: FuseSpec = FuseSpec()
    """How they are joined."""
    decode: DecodeSpec = DecodeSpec()
    """How latents become frames."""
    encode: EncodeSpec = EncodeSpec()
    """How frames become a file."""
    preview: PreviewSpec = PreviewSpec()
    """Pictures while a video is denoised."""
    resources: ResourcesSpec = ResourcesSpec()
    """Where the work is done."""


class VideoJob(_Spec):
    """One video to render: a pipeline, a prompt or a timeline of them, and a seed."""

    prompt: str
    """What the video shows; of a timeline all of it in one line, for people."""
    prompts: tuple[TimedPrompt, ...] = ()
    """The timeline, from frame 0 on; empty: ``prompt`` from the first frame to the last."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    pipeline: PipelineSpec
    model_identity: str = ""
    """Digest of the model's files, so that another model under the same path is another video."""

    @property
    def timeline(self) -> tuple[TimedPrompt, ...]:
        """What the video shows from which frame on; at least one prompt, the first at frame 0."""
        return self.prompts or (TimedPrompt(at_frame=0, text=self.prompt),)

    @property
    def specification_hash(self) -> str:
        """Hex SHA-256 of everything that determines the video's bits."""
        return self._hash(of_latents=False)

    @property
    def latents_hash(self) -> str:
        """Hex SHA-256 of everything that determines the final latents: not how they are decoded,
        encoded and played."""
        return self._hash(of_latents=True)

    def _hash(self, *, of_latents: bool) -> str:
        own = {
            "format": FORMAT_VERSION,
            "timeline": [prompt.model_dump() for prompt in self.timeline],
            "seed": self.seed,
            "model_identity": self.model_identity,
        }
        parts = _sections(_Same(self.pipeline), of_latents) | {
            key: canonical_json(value) for key, value in own.items()
        }
        text = ",".join(f'"{key}":{parts[key]}' for key in sorted(parts))
        return hashlib.sha256(f"{{{text}}}".encode()).hexdigest()


class _Same:
    """Equal to itself alone: what is frozen need not be compared to be known again."""

    def __init__(self, pipeline: PipelineSpec) -> None:
        self.pipeline = pipeline

    def __hash__(self) -> int:
        return id(self.pipeline)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.pipeline is other.pipeline


# The jobs of a catalog share a few pipelines, of which writing out is most of the work of a hash.
@lru_cache(maxsize=64)
def _sections(same: _Same, of_latents: bool) -> dict[str, str]:
    """What determines a video's bits, or its latents: canonical JSON by key of the pipeline."""
    pipeline = same.pipeline
    excluded: dict[str, Any] = {
        "name": True,
        "description": True,
        "prompt": True,
        "prompts": True,
        "resources": True,
        "preview": True,
        # Who decodes what: changes no bit.
        "decode": {"parallel"},
        # The identity says which model; where it lies does not matter.
        "model": {"path", "revision"},
        # Options of methods that take no part.
        **{method: True for method in METHODS if method != pipeline.method},
    }
    if of_latents:
        excluded |= {"decode": True, "encode": True, "video": {"fps"}}
    sections = pipeline.model_dump(exclude=excluded)
    return {key: canonical_json(section) for key, section in sections.items()}


def canonical_json(value: Any) -> str:
    """A JSON value in the one form that is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def content_hash(value: Any) -> str:
    """Hex SHA-256 of a JSON value's canonical form."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()
