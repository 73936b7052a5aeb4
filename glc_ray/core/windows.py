"""Which latent frames each model forward sees: the global dilated and the local shifted windows.

All quantities are in latent frames. Symbols of the paper: ``K`` is ``num_latent_frames``, ``L`` is
``window_size``, ``s`` is ``stride``, ``J`` is ``shift``, ``d`` is the dilation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from glc_ray.protocols import Window


def global_windows(
    num_latent_frames: int, window_size: int, *, first_index: int = 0
) -> tuple[Window, ...]:
    """Dilated windows that each span the whole video (Eq. 4, 5).

    With d = ceil(K / L), window i of d takes frames i, i + d, …, i + (L − 1)d. Positions beyond the
    video repeat the last frame with weight 0 (decided: zeros are off-distribution), so every frame
    is covered exactly once. For K = L it is one plain window.

    Raises:
        ValueError: ``window_size`` is below 1 or the video is shorter than one window.
    """
    _check_lengths(num_latent_frames, window_size)
    dilation = -(-num_latent_frames // window_size)
    return tuple(
        _global_window(first_index + offset, offset, dilation, window_size, num_latent_frames)
        for offset in range(dilation)
    )


def _global_window(
    index: int, offset: int, dilation: int, window_size: int, num_latent_frames: int
) -> Window:
    positions = range(offset, offset + window_size * dilation, dilation)
    frames = tuple(min(position, num_latent_frames - 1) for position in positions)
    weights = tuple(float(position < num_latent_frames) for position in positions)
    return Window(index=index, path="global", frames=frames, weights=weights)


def local_windows(
    num_latent_frames: int,
    window_size: int,
    stride: int,
    shift: int = 0,
    *,
    first_index: int = 0,
    weights: Sequence[float] | None = None,
) -> tuple[Window, ...]:
    """Windows of consecutive frames, displaced by one random shift (Eq. 6, 7).

    Starts are clamp(J + (i − 1)s, 0, K − L), always with 0 and K − L, sorted and without
    duplicates (decided: Eq. 7 alone leaves frames uncovered at both ends). As s ≤ L, every frame is
    covered. For K = L it is one plain window.

    Args:
        stride: distance of neighbouring starts, 1..L.
        shift: displacement of all starts, 0..s − 1; see `random_shift`.
        weights: of the L positions of every window, each above 0; 1 by default.

    Raises:
        ValueError: an argument is out of its range, or the video is shorter than one window.
    """
    _check_lengths(num_latent_frames, window_size)
    check_stride(stride, window_size)
    if not 0 <= shift < stride:
        raise ValueError(f"shift is {shift}: it must be between 0 and stride - 1 = {stride - 1}.")
    last_start = num_latent_frames - window_size
    # J − s is below 0 and clamps to 0: what Eq. 7 gives for i = 0.
    starts = sorted({0, *range(shift, last_start, stride), last_start})
    weights = (1.0,) * window_size if weights is None else tuple(weights)
    return tuple(
        Window(first_index + position, "local", tuple(range(start, start + window_size)), weights)
        for position, start in enumerate(starts)
    )


def triangle_weights(window_size: int) -> tuple[float, ...]:
    """Weights 1, 2, …, m, …, 2, 1 of a window's positions: FreeNoise's, diffusers' "pyramid"."""
    return tuple(
        float(min(position + 1, window_size - position)) for position in range(window_size)
    )


def random_shift(seed: int, step_index: int, stride: int) -> int:
    """The shift J of one step, uniform on 0..stride − 1 (Eq. 6).

    A function of (seed, step_index) alone, so that a resumed or retried step has the same windows.
    A hash mixes the two, since neighbouring seeds and steps must be independent; it gives the same
    number on every platform and in every process, which library generators do not promise.

    Raises:
        ValueError: ``stride`` is below 1.
    """
    if stride < 1:
        raise ValueError(f"stride is {stride}: it must be at least 1.")
    digest = hashlib.sha256(f"local shift, seed {seed}, step {step_index}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % stride


def check_stride(stride: int, window_size: int) -> None:
    """Refuse a stride that leaves frames uncovered or never advances.

    Raises:
        ValueError: ``stride`` is not in 1..``window_size``.
    """
    if not 1 <= stride <= window_size:
        raise ValueError(
            f"stride is {stride}: it must be between 1 and the window of {window_size} latent "
            "frames, or windows would leave frames uncovered."
        )


def check_clip(num_latent_frames: int, max_clip_frames: int | None) -> None:
    """Refuse one forward over more frames than the model has positions for.

    Args:
        num_latent_frames: of the forward.
        max_clip_frames: the model's longest clip in latent frames; None is no limit.

    Raises:
        ValueError: the clip is longer.
    """
    if max_clip_frames is not None and num_latent_frames > max_clip_frames:
        raise ValueError(
            f"one forward would span {num_latent_frames} latent frames, and the model's positions "
            f"end at {max_clip_frames}; ask for a shorter video, or use glc or gen_l_video, whose "
            "windows are the model's own"
        )


def _check_lengths(num_latent_frames: int, window_size: int) -> None:
    if window_size < 1:
        raise ValueError(f"window_size is {window_size}: it must be at least 1 latent frame.")
    if num_latent_frames < window_size:
        raise ValueError(
            f"num_latent_frames is {num_latent_frames}: it must be at least the model's window of "
            f"{window_size} latent frames. Ask for a longer video."
        )
