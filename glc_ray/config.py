"""The job specification: frozen, validated, with a content hash.

Everything under ``PipelineSpec`` but ``resources``, ``name`` and ``description`` may change the
bits of a video and is part of its hash; ``resources`` says only where the work is done.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

FORMAT_VERSION = 1
"""Part of every specification hash; raised when the same specification gives other bits."""

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0)]


class _Spec(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        # So that a default hashes as the same value read back from JSON: 8.0, not 8.
        validate_default=True,
    )


class ModelSpec(_Spec):
    """Which diffusion model, and in which precision."""

    backbone: Literal["cogvideox"] = "cogvideox"
    """The adapter that loads it."""
    path: str
    """A folder in diffusers' format, a hub id, or package:NAME for an embedded model."""
    revision: str | None = None
    """Commit or tag of a hub id."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of weights and activations in the denoiser and the VAE."""


class VideoSpec(_Spec):
    """The picture."""

    num_frames: Count = 145
    """Pixel frames of the long video; 4k+1 for CogVideoX."""
    fps: Annotated[float, Field(gt=0, le=240)] = 8
    """Frames per second of the file."""


class SamplingSpec(_Spec):
    """The denoising loop."""

    num_steps: Annotated[int, Field(ge=1, le=1000)] = 50
    """Denoising steps."""
    guidance_scale: Annotated[float, Field(ge=1)] = 6.0
    """Classifier-free guidance; 1 turns it off."""
    negative_prompt: str = ""
    """What guidance leads away from."""


class GammaSpec(_Spec):
    """gamma(t) = gamma0 * exp(beta * t): share of the global path (Eq. 9)."""

    preset: Literal["paper", "annealed"] = "paper"
    """paper: 0.005, 0.0005 as printed; annealed: beta 0.005, strong early and gone late."""
    gamma0: Share | None = None
    """In place of the preset's."""
    beta: float | None = None
    """In place of the preset's."""


class GLCSpec(_Spec):
    """GLC-Diffusion and its ablation switches."""

    global_path: bool = True
    """Dilated windows over the whole video (Eq. 4, 5)."""
    local_path: bool = True
    """Overlapping windows with a random shift (Eq. 6, 7)."""
    stride: Count | None = None
    """Between local windows, in latent frames; none is half a window."""
    gamma: GammaSpec = GammaSpec()
    """Share of the global path."""
    noise_reinit: bool = True
    """Initial noise by local shuffle and frequency fusion (Eq. 11); plain noise otherwise."""
    noise_chunk: Count | None = None
    """Latent frames shuffled together; none is 4, or the window if that is shorter."""
    noise_order: Count = 4
    """Order of the Butterworth low-pass."""
    noise_spatial_cutoff: Annotated[float, Field(gt=0)] = 0.25
    """Its cut-off along height and width, a share of the Nyquist frequency."""
    noise_temporal_cutoff: Annotated[float, Field(gt=0)] = 0.25
    """Its cut-off along frames, a share of the Nyquist frequency."""
    vmcr: bool = True
    """Video motion consistency refinement after each step (Eq. 12-15)."""
    vmcr_weight: Share = 2e-5
    """Step length omega of the refinement (Eq. 15)."""
    vmcr_frequency: Share = 0.2
    """lambda_f, weight of the frequency-wise loss (Eq. 13)."""
    vmcr_mse: Share = 0.001
    """lambda_mse, weight of the squared difference of motions (Eq. 12)."""
    vmcr_phase: Share = 1.0
    """lambda_phase, weight of the phase difference (Eq. 14)."""


class DenoiseSpec(_Spec):
    """How windows are computed; both change the last bits, so they are part of the hash."""

    batch_size: Count = 1
    """Windows of one path in one forward."""
    threads: Count = 1
    """CPU threads of one denoiser."""


class FuseSpec(_Spec):
    """Fusion, scheduler step and refinement in the coordinator."""

    threads: Count = 1
    """CPU threads of one coordinator."""


class DecodeSpec(_Spec):
    """VAE decode."""

    tiling: Literal["auto", "on", "off"] = "auto"
    """on decodes pictures larger than one tile in tiles, as diffusers does, off never does; auto
    does so where the VAE's tiles make up the picture without gaps."""
    threads: Count = 1
    """CPU threads of one decoder."""


class EncodeSpec(_Spec):
    """H.264 encode."""

    crf: Annotated[int, Field(ge=0, le=51)] = 18
    """Quality: 0 lossless, 51 worst."""
    preset: Literal["ultrafast", "veryfast", "fast", "medium", "slow", "veryslow"] = "medium"
    """Effort for size."""


class ActorResources(_Spec):
    """How many actors of a kind, and what each takes of a node."""

    count: Count = 1
    """Actors of this kind."""
    num_cpus: Share = 1
    """Logical CPUs each."""
    num_gpus: Share = 0
    """GPUs each; fractions share one."""


class DecoderResources(ActorResources):
    """By default decoders share the denoisers' CPUs and reserve none of their own."""

    num_cpus: Share = 0
    """Logical CPUs each."""


class CoordinatorResources(_Spec):
    """How many coordinators, and what each takes of a node."""

    count: Count = 1
    """Coordinators: videos denoised at once."""
    num_cpus: Share = 0
    """Logical CPUs each."""


class ResourcesSpec(_Spec):
    """Where the work is done; never changes a bit of the result."""

    denoisers: ActorResources = ActorResources()
    """Window forwards; count is --workers."""
    coordinators: CoordinatorResources = CoordinatorResources()
    """Videos denoised at once."""
    decoders: DecoderResources = DecoderResources()
    """Videos decoded and encoded at once."""
    wait_for_nodes: bool = False
    """Start even where not all actors fit yet: the cluster grows by itself."""


class PipelineSpec(_Spec):
    """A pipeline file."""

    name: str
    """How --pipeline calls it."""
    description: str = ""
    """One line for people."""
    prompt: str | None = None
    """Rendered when no prompt is given."""
    model: ModelSpec
    """The diffusion model."""
    video: VideoSpec = VideoSpec()
    """The picture."""
    sampling: SamplingSpec = SamplingSpec()
    """The denoising loop."""
    method: Literal["glc"] = "glc"
    """The long-video method."""
    glc: GLCSpec = GLCSpec()
    """Options of --method glc."""
    denoise: DenoiseSpec = DenoiseSpec()
    """How windows are computed."""
    fuse: FuseSpec = FuseSpec()
    """How they are joined."""
    decode: DecodeSpec = DecodeSpec()
    """How latents become frames."""
    encode: EncodeSpec = EncodeSpec()
    """How frames become a file."""
    resources: ResourcesSpec = ResourcesSpec()
    """Where the work is done."""


METHODS: tuple[str, ...] = get_args(PipelineSpec.model_fields["method"].annotation)


class VideoJob(_Spec):
    """One video to render: a pipeline, a prompt and a seed."""

    prompt: str
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    pipeline: PipelineSpec
    model_identity: str = ""
    """Digest of the model's files, so that another model under the same path is another video."""

    @property
    def specification_hash(self) -> str:
        """Hex SHA-256 of everything that determines the video's bits."""
        pipeline = self.pipeline.model_dump(
            exclude={
                "name": True,
                "description": True,
                "prompt": True,
                "resources": True,
                # The identity says which model; where it lies does not matter.
                "model": {"path", "revision"},
            }
        )
        return content_hash(
            {
                "format": FORMAT_VERSION,
                "prompt": self.prompt,
                "seed": self.seed,
                "model_identity": self.model_identity,
                **pipeline,
            }
        )


def content_hash(value: Any) -> str:
    """Hex SHA-256 of a JSON value's canonical form."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
