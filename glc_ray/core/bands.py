"""Bands of latent frames: what the last denoising step finishes one after the other.

A window's prediction can finish no frame that a later window still covers, so with windows from
left to right the video is final from its beginning. All quantities are in latent frames.
"""

from __future__ import annotations

from dataclasses import dataclass

_BAND_FRAMES = 8
"""Fewer are final sooner, and cost more: refinement looks at two frames beyond either end."""


@dataclass(frozen=True)
class Band:
    """Some frames of a video that are stepped and updated by themselves."""

    frames: slice
    """What comes of it."""
    needs: slice
    """What it is computed from: the frames within reach of its own."""
    is_whole: bool = False
    """It is the whole video."""

    @property
    def own(self) -> slice:
        """``frames``, counted from the first that it needs."""
        start = self.needs.start
        return slice(self.frames.start - start, self.frames.stop - start)


def whole(num_latent_frames: int) -> Band:
    """The whole video as one band."""
    return Band(slice(0, num_latent_frames), slice(0, num_latent_frames), is_whole=True)


def bands(num_latent_frames: int, reach: int) -> tuple[Band, ...]:
    """A video in bands, in order. Their borders depend on its length alone, so that every run of
    it, however its windows arrive, computes the same.

    Args:
        num_latent_frames: length K of the video.
        reach: how far to either side the update of a frame looks.
    """
    starts = range(0, num_latent_frames, _BAND_FRAMES)
    if len(starts) == 1:
        return (whole(num_latent_frames),)
    return tuple(_band(start, num_latent_frames, reach) for start in starts)


def _band(start: int, num_latent_frames: int, reach: int) -> Band:
    stop = min(start + _BAND_FRAMES, num_latent_frames)
    needs = slice(max(start - reach, 0), min(stop + reach, num_latent_frames))
    return Band(slice(start, stop), needs)
