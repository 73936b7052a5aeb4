"""FreeLong: one forward over the whole video, its attention blended by frequency."""

from __future__ import annotations

from glc_ray.config import FreeLongSpec
from glc_ray.core.windows import check_clip, global_windows
from glc_ray.methods.fixed import FixedWindows
from glc_ray.protocols import ModelFacts, Path, SpectralAttention


class FreeLong(FixedWindows):
    """FreeLong (arXiv 2407.19918), a `glc_ray.protocols.Method`.

    One window of K frames, in every self-attention layer of which the low frequencies come from
    global attention and the high ones from local attention; plain noise.
    """

    def __init__(self, *, num_latent_frames: int, facts: ModelFacts, options: FreeLongSpec) -> None:
        """Prepare the one window.

        Args:
            num_latent_frames: length K of the video.
            facts: of the model.
            options: radius of local attention and cut-off.

        Raises:
            ValueError: the model's positions end before the video does.
        """
        check_clip(num_latent_frames, facts.max_clip_frames)
        attention = SpectralAttention(radius=options.radius, cutoff=options.cutoff)
        windows = global_windows(num_latent_frames, num_latent_frames)
        super().__init__(
            Path("global", 1.0, windows, attention),
            requires=frozenset({"long_clips", "spectral_attention"}),
        )
