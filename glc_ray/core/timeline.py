"""Which prompt a window shows: timelines of prompts over the frames of a video."""

from __future__ import annotations

from collections.abc import Sequence

from glc_ray.protocols import Window


def frame_prompt_weights(
    pixel_frame: float, starts: Sequence[int], transition_frames: int
) -> tuple[float, ...]:
    """How much each prompt counts at one pixel frame; the weights sum to 1.

    Prompt i passes into prompt i + 1 linearly over ``transition_frames`` that are centred on the
    start of i + 1 (decided). Where changes follow each other faster than that, they overlap, and
    never more than two neighbouring prompts are mixed.

    Args:
        pixel_frame: position in the video.
        starts: first pixel frame of each prompt, rising, the first 0.
        transition_frames: length of a change in pixel frames; 0 cuts.
    """
    passed = sum(_passed(pixel_frame, start, transition_frames) for start in starts[1:])
    current = min(int(passed), len(starts) - 1)
    share = passed - current
    return tuple(
        1 - share if index == current else share if index == current + 1 else 0.0
        for index in range(len(starts))
    )


def _passed(pixel_frame: float, start: int, transition_frames: int) -> float:
    """How far the change at ``start`` has gone, 0..1."""
    if transition_frames == 0:
        return float(pixel_frame >= start)
    return min(max((pixel_frame - start) / transition_frames + 0.5, 0.0), 1.0)


def window_prompt_weights(
    window: Window,
    starts: Sequence[int],
    transition_frames: int,
    temporal_ratio: int,
    leading_latent_frames: int = 0,
) -> tuple[float, ...]:
    """How much each prompt counts for one window: the mean over its frames that count in fusion.

    A forward has one text conditioning, so a window across a change is conditioned on a mixture
    (decided). A window within one prompt gets exactly that one.

    Args:
        window: latent frames and their fusion weights.
        starts: first pixel frame of each prompt.
        transition_frames: length of a change in pixel frames.
        temporal_ratio: pixel frames per latent frame; latent frame f shows the pixel frames up to
            ``temporal_ratio * f``.
        leading_latent_frames: latent frames before the one that shows pixel frame 0.
    """
    if len(starts) == 1:
        return (1.0,)
    frames = [
        frame for frame, weight in zip(window.frames, window.weights, strict=True) if weight > 0
    ]
    weights = [
        frame_prompt_weights(
            (frame - leading_latent_frames) * temporal_ratio, starts, transition_frames
        )
        for frame in frames
    ]
    return tuple(sum(column) / len(frames) for column in zip(*weights, strict=True))
