"""Direct sampling: the model is asked for the whole long video at once."""

from __future__ import annotations

from glc_ray.core.windows import check_clip, global_windows
from glc_ray.methods.fixed import FixedWindows
from glc_ray.protocols import ModelFacts, Path


class Direct(FixedWindows):
    """What the model's own pipeline does for more frames, a `glc_ray.protocols.Method`.

    One window of K frames with positions 0..K − 1, plain noise: bit for bit the pipeline's result.
    """

    def __init__(self, *, num_latent_frames: int, facts: ModelFacts) -> None:
        """Prepare the one window.

        Args:
            num_latent_frames: length K of the video.
            facts: of the model.

        Raises:
            ValueError: the model's positions end before the video does.
        """
        check_clip(num_latent_frames, facts.max_clip_frames)
        windows = global_windows(num_latent_frames, num_latent_frames)
        super().__init__(Path("global", 1.0, windows), requires=frozenset({"long_clips"}))
