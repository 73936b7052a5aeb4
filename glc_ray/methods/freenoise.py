"""FreeNoise: shuffled noise, and windows that fade into each other.

Layout suffixes: ``B`` batch, ``F`` latent frames, ``C`` channels, ``H`` height, ``W`` width.
"""

from __future__ import annotations

from torch import Tensor

from glc_ray.config import FreeNoiseSpec
from glc_ray.core.noise import shuffled_noise
from glc_ray.core.windows import check_clip, global_windows, local_windows, triangle_weights
from glc_ray.methods.fit import check_chunk, check_stride
from glc_ray.methods.fixed import FixedWindows
from glc_ray.protocols import (
    Capability,
    ModelFacts,
    NoiseSource,
    Path,
    WindowedAttention,
)

_SHORT = 4
"""FreeNoise's stride and chunk of noise; a window of fewer latent frames takes its own length."""
_ATTENTION_LEVEL: frozenset[Capability] = frozenset({"long_clips", "windowed_attention"})


class FreeNoise(FixedWindows):
    """FreeNoise (arXiv 2310.15169), a `glc_ray.protocols.Method`.

    Windows of L frames without shift, weighted 1..m..1 over their positions. At the level
    ``attention`` they are windows of self-attention within one forward over the whole video, as in
    the paper; at the level ``prediction`` each is a forward, for models that add positions at their
    input. diffusers counts a last window that does not fall on the stride for its new frames only;
    here all of it counts (decided).
    """

    def __init__(
        self, *, num_latent_frames: int, facts: ModelFacts, options: FreeNoiseSpec
    ) -> None:
        """Prepare the windows of a video.

        Args:
            num_latent_frames: length K of the video, at least the model's window.
            facts: of the model.
            options: stride, chunk and level. In windows of fewer than 4 latent frames a longer
                stride is one window (decided: the default must fit every model).

        Raises:
            UserError: the stride or the chunk does not fit into a window.
            ValueError: the video is shorter than one window, or one forward over the video is asked
                for and the model's positions end before.
        """
        window_size = facts.window_size
        stride = options.stride if window_size >= _SHORT else min(options.stride, window_size)
        self._window_size = window_size
        self._chunk = min(_SHORT, window_size) if options.chunk is None else options.chunk
        check_chunk("freenoise.chunk", self._chunk, window_size)
        check_stride("freenoise.stride", stride, window_size, default=f"{_SHORT}")
        # At either level: so lengths that do not fit are refused here.
        windows = local_windows(
            num_latent_frames, window_size, stride, weights=triangle_weights(window_size)
        )
        if _within_attention(options, facts, num_latent_frames):
            check_clip(num_latent_frames, facts.max_clip_frames)
            whole = global_windows(num_latent_frames, num_latent_frames)
            attention = WindowedAttention(window_size, stride)
            super().__init__(Path("global", 1.0, whole, attention), requires=_ATTENTION_LEVEL)
        else:
            super().__init__(Path("local", 1.0, windows))

    def initial_noise(self, shape_BFCHW: tuple[int, ...], noise: NoiseSource) -> Tensor:
        """Locally shuffled noise z_T (B, K, C, H, W) in float32."""
        return shuffled_noise(shape_BFCHW, self._window_size, noise, chunk_size=self._chunk)


def _within_attention(options: FreeNoiseSpec, facts: ModelFacts, num_latent_frames: int) -> bool:
    """Whether windows are averaged within attention: as asked, or by itself where it works."""
    if options.level != "auto":
        return options.level == "attention"
    fits = facts.max_clip_frames is None or num_latent_frames <= facts.max_clip_frames
    return fits and facts.capabilities >= _ATTENTION_LEVEL
