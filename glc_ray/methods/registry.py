"""Methods by name."""

from __future__ import annotations

from glc_ray.config import VideoJob
from glc_ray.methods.glc import GLC
from glc_ray.protocols import Method, ModelFacts


def create(job: VideoJob, facts: ModelFacts) -> Method:
    """The method of a job, for its length and the model's native window."""
    video = job.pipeline.video
    return GLC(
        num_latent_frames=facts.num_latent_frames(video.num_frames),
        window_size=facts.window_size,
        seed=job.seed,
        options=job.pipeline.glc,
    )
