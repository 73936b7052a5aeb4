"""What rendered videos are worth."""

from __future__ import annotations

from glc_ray.evaluation.scoring import Video, evaluate_videos
from glc_ray.evaluation.videos import output_videos

__all__ = ["Video", "evaluate_videos", "output_videos"]
