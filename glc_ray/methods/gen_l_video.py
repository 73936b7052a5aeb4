"""Gen-L-Video: overlapping windows, whose predictions are averaged.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

from torch import Tensor

from glc_ray.config import GenLVideoSpec
from glc_ray.core.windows import local_windows
from glc_ray.protocols import Capability, ModelFacts, NoiseSource, Path, StepPlan, StepResult


class GenLVideo:
    """Gen-L-Video (arXiv 2305.18264), a `glc_ray.protocols.Method`.

    The same windows of L frames at every step, the last one at K − L; a flat average; plain noise.
    """

    requires: frozenset[Capability] = frozenset()

    def __init__(
        self, *, num_latent_frames: int, facts: ModelFacts, options: GenLVideoSpec
    ) -> None:
        """Prepare the windows of a video.

        Args:
            num_latent_frames: length K of the video, at least the model's window.
            facts: of the model.
            options: the stride.

        Raises:
            ValueError: the video is shorter than one window, or the stride does not fit into one.
        """
        window_size = facts.window_size
        stride = max(1, window_size // 2) if options.stride is None else options.stride
        self._path = Path("local", 1.0, local_windows(num_latent_frames, window_size, stride))

    def initial_noise(self, shape_BFCHW: tuple[int, ...], noise: NoiseSource) -> Tensor:
        """Plain noise z_T (B, K, C, H, W) in float32."""
        return noise.normal(shape_BFCHW)

    def plan(self, step_index: int, timestep: float) -> StepPlan:
        """All windows, the same at every step."""
        return StepPlan(step_index=step_index, timestep=timestep, paths=(self._path,))

    def update(self, result: StepResult) -> Tensor:
        """z_{t−1} as it is."""
        return result.prev_sample
