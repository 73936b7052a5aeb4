"""Methods by name."""

from __future__ import annotations

from glc_ray.config import VideoJob
from glc_ray.methods.direct import Direct
from glc_ray.methods.freelong import FreeLong
from glc_ray.methods.freenoise import FreeNoise
from glc_ray.methods.gen_l_video import GenLVideo
from glc_ray.methods.glc import GLC
from glc_ray.protocols import Method, ModelFacts


def create(job: VideoJob, facts: ModelFacts) -> Method:
    """The method of a job, for its length and its model.

    Raises:
        UserError: the method's options do not fit the two.
        ValueError: the method does not.
    """
    pipeline = job.pipeline
    length = facts.num_latent_frames(pipeline.video.num_frames)
    match pipeline.method:
        case "direct":
            return Direct(num_latent_frames=length, facts=facts)
        case "gen_l_video":
            return GenLVideo(num_latent_frames=length, facts=facts, options=pipeline.gen_l_video)
        case "freenoise":
            return FreeNoise(num_latent_frames=length, facts=facts, options=pipeline.freenoise)
        case "freelong":
            return FreeLong(num_latent_frames=length, facts=facts, options=pipeline.freelong)
        case "glc":
            return GLC(
                num_latent_frames=length,
                window_size=facts.window_size,
                seed=job.seed,
                options=pipeline.glc,
                max_clip_frames=facts.max_clip_frames,
            )
