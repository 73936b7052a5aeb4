"""GLC-Diffusion: global and local windows fused at every step, refined for steady motion.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

from torch import Tensor

from glc_ray.config import GammaSpec, GLCSpec
from glc_ray.core.gamma import GAMMA_PRESETS, gamma
from glc_ray.core.noise import reinitialise
from glc_ray.core.vmcr import REACH, VMCRWeights, correct
from glc_ray.core.windows import check_clip, global_windows, local_windows, random_shift
from glc_ray.methods.fit import check_chunk, check_stride
from glc_ray.protocols import (
    AnchorAttention,
    Capability,
    NoiseSource,
    Path,
    StepPlan,
    StepResult,
)


class GLC:
    """GLC-Diffusion for one video (Algorithm 1), a `glc_ray.protocols.Method`.

    At native length (K = L) with ``global_path``, ``noise_reinit`` and ``vmcr`` off it is the
    model's own sampling: one plain window a step, plain noise, no refinement. (``abam`` does
    nothing there: a path's first window is its own anchor.)

    With both paths off it is the paper's ablation "w/o GLCD" (decided: its text does not say what
    is left): one window of all K frames, as direct sampling has it, with GLC's initial noise and
    refinement.
    """

    def __init__(
        self,
        *,
        num_latent_frames: int,
        window_size: int,
        seed: int,
        options: GLCSpec,
        max_clip_frames: int | None = None,
    ) -> None:
        """Prepare the windows of a video.

        Args:
            num_latent_frames: length K of the video, at least ``window_size``.
            window_size: the model's native window L, in latent frames.
            seed: of the local windows' random shifts.
            options: parameters and ablation switches.
            max_clip_frames: the model's longest clip in latent frames; None is no limit.

        Raises:
            UserError: the stride or the noise chunk does not fit into a window.
            ValueError: the video is shorter than one window, or both paths are off and it is
                longer than the longest clip.
        """
        self.num_latent_frames = num_latent_frames
        self.window_size = window_size
        self.seed = seed
        self.options = options
        self.stride = max(1, window_size // 2) if options.stride is None else options.stride
        reinit, vmcr, abam = options.noise_reinit, options.vmcr, options.abam
        self.noise_chunk = min(4, window_size) if reinit.chunk is None else reinit.chunk
        self._gamma0, self._beta = _gamma_parameters(options.gamma)
        self._is_whole = not (options.global_path or options.local_path)
        clip_frames = num_latent_frames if self._is_whole else window_size
        if self._is_whole:
            check_clip(clip_frames, max_clip_frames)
        self._global_windows = global_windows(num_latent_frames, clip_frames)
        check_stride("glc.stride", self.stride, window_size, default="half a window")
        check_chunk("glc.noise_reinit.chunk", self.noise_chunk, window_size)
        self._vmcr_weights = VMCRWeights(frequency=vmcr.frequency, mse=vmcr.mse, phase=vmcr.phase)
        self._attention = (
            AnchorAttention(weight=abam.weight, literal=abam.literal, cache=abam.cache)
            if abam.enabled and not self._is_whole
            else None
        )
        self.reach = REACH if vmcr.enabled else 0
        requires: set[Capability] = {"long_clips"} if self._is_whole else set()
        # One window is its own anchor.
        if abam.enabled and not self._is_whole:
            requires.add("anchor_attention")
        self.requires = frozenset(requires)

    def initial_noise(self, shape_BFCHW: tuple[int, ...], noise: NoiseSource) -> Tensor:
        """Noise z_T (B, K, C, H, W) in float32: reinitialised (Eq. 11), or plain if that is off."""
        assert shape_BFCHW[1] == self.num_latent_frames, "noise for another length of video"
        reinit = self.options.noise_reinit
        if not reinit.enabled:
            return noise.normal(shape_BFCHW)
        return reinitialise(
            shape_BFCHW,
            self.window_size,
            noise,
            chunk_size=self.noise_chunk,
            order=reinit.order,
            spatial_cutoff=reinit.spatial_cutoff,
            temporal_cutoff=reinit.temporal_cutoff,
        )

    def plan(self, step_index: int, timestep: float) -> StepPlan:
        """The step's windows: global first, then local (Eq. 4–7), with their shares (Eq. 9).

        A path whose share is 0 is left out: its model forwards would count for nothing.
        """
        share = self.global_share(timestep)
        paths: list[Path] = []
        if share > 0:
            paths.append(Path("global", share, self._global_windows, self._attention))
        if share < 1:
            first_index = len(self._global_windows) if paths else 0
            paths.append(self._local_path(step_index, 1 - share, first_index))
        return StepPlan(step_index=step_index, timestep=timestep, paths=tuple(paths))

    def global_share(self, timestep: float) -> float:
        """γ(t) with both paths on, else 1 or 0 (Eq. 9); 1 without any, of the one window."""
        if self.options.global_path and self.options.local_path:
            return gamma(timestep, gamma0=self._gamma0, beta=self._beta)
        return float(not self.options.local_path)

    def update(self, result: StepResult, first_frame: int = 0) -> Tensor:
        """The next step's latents: z_{t−1}, refined for steady motion if VMCR is on (Eq. 15)."""
        if not self.options.vmcr.enabled:
            return result.prev_sample
        return correct(
            result.prev_sample,
            result.pred_original_sample,
            result.signal_scale,
            step_size=self.options.vmcr.weight,
            weights=self._vmcr_weights,
            first_frame=first_frame,
        )

    def _local_path(self, step_index: int, share: float, first_index: int) -> Path:
        shift = random_shift(self.seed, step_index, self.stride)
        windows = local_windows(
            self.num_latent_frames, self.window_size, self.stride, shift, first_index=first_index
        )
        return Path("local", share, windows, self._attention)


def _gamma_parameters(spec: GammaSpec) -> tuple[float, float]:
    """(gamma0, beta): the preset's, unless given."""
    gamma0, beta = GAMMA_PRESETS[spec.preset]
    return (
        gamma0 if spec.gamma0 is None else spec.gamma0,
        beta if spec.beta is None else spec.beta,
    )
