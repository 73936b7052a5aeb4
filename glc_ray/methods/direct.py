"""Direct sampling: the model is asked for the whole long video at once.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

from torch import Tensor

from glc_ray.core.windows import check_clip, global_windows
from glc_ray.protocols import Capability, ModelFacts, NoiseSource, Path, StepPlan, StepResult


class Direct:
    """What the model's own pipeline does for more frames, a `glc_ray.protocols.Method`.

    One window of K frames with positions 0..K − 1, plain noise: bit for bit the pipeline's result.
    """

    requires: frozenset[Capability] = frozenset({"long_clips"})

    def __init__(self, *, num_latent_frames: int, facts: ModelFacts) -> None:
        """Prepare the one window.

        Args:
            num_latent_frames: length K of the video.
            facts: of the model.

        Raises:
            ValueError: the model's positions end before the video does.
        """
        check_clip(num_latent_frames, facts.max_clip_frames)
        self._path = Path("global", 1.0, global_windows(num_latent_frames, num_latent_frames))

    def initial_noise(self, shape_BFCHW: tuple[int, ...], noise: NoiseSource) -> Tensor:
        """Plain noise z_T (B, K, C, H, W) in float32."""
        return noise.normal(shape_BFCHW)

    def plan(self, step_index: int, timestep: float) -> StepPlan:
        """The one window."""
        return StepPlan(step_index=step_index, timestep=timestep, paths=(self._path,))

    def update(self, result: StepResult) -> Tensor:
        """z_{t−1} as it is."""
        return result.prev_sample
