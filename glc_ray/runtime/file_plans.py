"""What each video's file is made of: rows of one run may differ in length, part, size and rate.

Facts of the model are read once, by whoever starts a run. What is made of them is arithmetic, so
that an actor that only divides or joins does not import diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass

from glc_ray.backbones.registry import decoder_facts, facts
from glc_ray.config import PipelineSpec
from glc_ray.job import decode_plan_of, file_shape
from glc_ray.media.decode_plan import DecodePlan


@dataclass(frozen=True)
class FilePlan:
    """How a file comes about, and what it is."""

    decode: DecodePlan
    num_frames: int
    width: int
    height: int


class FilePlans:
    """The plans of a run, by pipeline.

    Args:
        pipeline: one of the run's: its model, decode settings and decoders are everybody's.
        num_videos: how many are decoded in the run.

    Raises:
        UserError: it was said what decoders share, and they cannot.
    """

    def __init__(self, pipeline: PipelineSpec, num_videos: int = 1) -> None:
        self.model = facts(pipeline.model)
        self._decoder = decoder_facts(pipeline.model, pipeline.decode)
        self._plans: dict[str, FilePlan] = {}
        self.shared = decode_plan_of(pipeline, self.model, self._decoder, num_videos=num_videos)
        """What the run's actors are started for: ``kind`` and ``tiles`` are those of all videos."""

    def of(self, pipeline: PipelineSpec) -> FilePlan:
        """The plan of a video of the run."""
        key = pipeline.model_dump_json()
        if key not in self._plans:
            decode = decode_plan_of(pipeline, self.model, self._decoder, kind=self.shared.kind)
            self._plans[key] = FilePlan(decode, *file_shape(pipeline, self.model))
        return self._plans[key]
