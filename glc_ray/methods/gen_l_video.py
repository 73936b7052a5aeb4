"""Gen-L-Video: overlapping windows, whose predictions are averaged."""

from __future__ import annotations

from glc_ray.config import GenLVideoSpec
from glc_ray.core.windows import local_windows
from glc_ray.methods.fit import check_stride
from glc_ray.methods.fixed import FixedWindows
from glc_ray.protocols import ModelFacts, Path


class GenLVideo(FixedWindows):
    """Gen-L-Video (arXiv 2305.18264), a `glc_ray.protocols.Method`.

    The same windows of L frames at every step, the last one at K − L; a flat average; plain noise.
    """

    def __init__(
        self, *, num_latent_frames: int, facts: ModelFacts, options: GenLVideoSpec
    ) -> None:
        """Prepare the windows of a video.

        Args:
            num_latent_frames: length K of the video, at least the model's window.
            facts: of the model.
            options: the stride.

        Raises:
            UserError: the stride does not fit into a window.
            ValueError: the video is shorter than one window.
        """
        window_size = facts.window_size
        stride = max(1, window_size // 2) if options.stride is None else options.stride
        check_stride("gen_l_video.stride", stride, window_size, default="half a window")
        super().__init__(Path("local", 1.0, local_windows(num_latent_frames, window_size, stride)))
