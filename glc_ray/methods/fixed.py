"""What methods share whose windows are the same at every step.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

from torch import Tensor

from glc_ray.protocols import Capability, NoiseSource, Path, StepPlan, StepResult


class FixedWindows:
    """One path at every step, plain noise, and z_{t−1} as it is."""

    reach = 0

    def __init__(self, path: Path, requires: frozenset[Capability] = frozenset()) -> None:
        """Prepare.

        Args:
            path: all windows, with a share of 1.
            requires: what a backbone must be capable of.
        """
        self.requires = requires
        self._path = path

    def initial_noise(self, shape_BFCHW: tuple[int, ...], noise: NoiseSource) -> Tensor:
        """Plain noise z_T (B, K, C, H, W) in float32."""
        return noise.normal(shape_BFCHW)

    def plan(self, step_index: int, timestep: float) -> StepPlan:
        """The path."""
        return StepPlan(step_index=step_index, timestep=timestep, paths=(self._path,))

    def update(self, result: StepResult, first_frame: int = 0) -> Tensor:
        """z_{t−1} as it is."""
        return result.prev_sample
