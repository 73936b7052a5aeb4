"""Where windows end in a finished video: the places at which a seam could be seen."""

from __future__ import annotations

from collections import Counter

from glc_ray.config import VideoJob
from glc_ray.core.windows import local_windows
from glc_ray.methods import registry
from glc_ray.protocols import ModelFacts, Path, WindowedAttention


def window_borders(job: VideoJob, facts: ModelFacts) -> dict[int, float]:
    """The frames of the file at which windows of neighbouring frames begin or end.

    A dilated window has no border: all its frames are neighbours of other windows' frames. Shifts
    that differ from step to step spread the others; one where every step has a border (1.0) is
    where nothing smooths over it.

    Args:
        job: of the video.
        facts: of its model.

    Returns:
        The share of the steps, above 0 and up to 1, by frame of the file; frame t stands for the
        border between t − 1 and t.
    """
    method = registry.create(job, facts)
    steps = job.pipeline.sampling.num_steps
    length = facts.num_latent_frames(job.pipeline.video.num_frames)
    counts: Counter[int] = Counter()
    for step in range(steps):
        paths = method.plan(step, 0.0).paths
        counts.update({edge for path in paths for edge in _edges(path, length)})
    start, stop = job.pipeline.encode.frames or (0, job.pipeline.video.num_frames)
    borders = {}
    for edge, count in sorted(counts.items()):
        frame = _first_frame(edge - facts.leading_latent_frames, facts) - start
        if 0 < frame < stop - start:
            borders[frame] = count / steps
    return borders


def _edges(path: Path, length: int) -> set[int]:
    """Latent frames that a window begins with, or that follow its last one."""
    windows = path.windows
    if isinstance(path.attention, WindowedAttention):
        windows = local_windows(length, path.attention.window_size, path.attention.stride)
    spans = [range(window.frames[0], window.frames[-1] + 1) for window in windows]
    plain = [
        span for span, window in zip(spans, windows, strict=True) if tuple(span) == window.frames
    ]
    return {edge for span in plain for edge in (span.start, span.stop)}


def _first_frame(latent_frame: int, facts: ModelFacts) -> int:
    """Pixel frame that a latent frame begins with; the first one has a frame of its own."""
    return facts.temporal_ratio * (latent_frame - 1) + 1 if latent_frame > 0 else 0
