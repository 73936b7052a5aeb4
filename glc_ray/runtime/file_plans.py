"""What each video's file is made of: rows of one run may differ in length, part, size and rate."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from glc_ray.backbones.registry import facts
from glc_ray.config import PipelineSpec
from glc_ray.job import decode_plan, file_shape
from glc_ray.media.decode_plan import DecodePlan, Kind


@dataclass(frozen=True)
class FileFacts:
    """What the end of the graph must know of a file, where no model's configuration is read."""

    num_frames: int
    width: int
    height: int
    segments: tuple[int, ...]
    """Indices of those that it is joined of, in order."""

    def to_json(self) -> str:
        """For a row."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> FileFacts:
        """Of a row."""
        values = json.loads(text)
        return cls(**{**values, "segments": tuple(values["segments"])})


@dataclass(frozen=True)
class FilePlan:
    """How a file comes about, and what it is."""

    decode: DecodePlan
    facts: FileFacts


class FilePlans:
    """The plan of each pipeline that comes by, made once.

    Args:
        kind: what decoders share. It is decided for all videos of a run together, because the
            actors are started for it: ``decode_plan(pipeline, num_videos).kind``.
    """

    def __init__(self, kind: Kind) -> None:
        self._kind = kind
        self._plans: dict[str, FilePlan] = {}

    def of(self, pipeline: PipelineSpec) -> FilePlan:
        """The plan of a pipeline; it may differ from the run's in all but model and decode.

        Raises:
            UserError: its video cannot be decoded in this way.
        """
        key = pipeline.model_dump_json()
        if key not in self._plans:
            plan = decode_plan(pipeline, kind=self._kind)
            shape = file_shape(pipeline, facts(pipeline.model))
            indices = tuple(segment.index for segment in plan.segments)
            self._plans[key] = FilePlan(plan, FileFacts(*shape, segments=indices))
        return self._plans[key]
