"""From a row of a catalog to its jobs: every mistake is found here, before any work."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from glc_ray.backbones.registry import facts
from glc_ray.catalog_row import (
    OWN_COLUMNS,
    Setting,
    check_key,
    prompt_of,
    settings_of,
    text_of,
    whole_number,
)
from glc_ray.config import PipelineSpec, VideoJob, content_hash
from glc_ray.job import build_job, file_shape, video_name
from glc_ray.media import formats
from glc_ray.media.ffmpeg import FFmpegError
from glc_ray.names import checked_name, vbench_name
from glc_ray.pipeline_file import Override, load_pipeline, pipeline_names
from glc_ray.prompts import PromptLike, in_one_line, timeline
from glc_ray.protocols import UserError
from glc_ray.store.catalog import CatalogRow

Naming = Literal["default", "vbench"]

LARGEST_PRIORITY = 100
_TEMPLATES = 1024
_ANY_PROMPT = "x"


@dataclass(frozen=True)
class CatalogJob:
    """A video that a row asks for."""

    job: VideoJob
    name: str
    """Of its files."""
    priority: int
    """Higher goes first."""
    line: int
    """Of the row."""
    group: str
    """As ``group_of``."""
    catalog: str = ""
    """Its location, where that is known."""


class CatalogJobs:
    """Makes the jobs of rows that have a pipeline and options of the command line in common.

    What a row says goes before the options of the command, and these before the pipeline's file: a
    row is about its own video, the command about all of them. A row may name another pipeline.

    Rows that differ in prompt, seed, name and priority alone cost no validation of their own.

    Args:
        pipeline: name or file.
        overrides: (dotted key, value), as of ``load_pipeline``.
        seed: of rows that have none.
        samples_per_prompt: videos of a row, with seeds from its own on.
        naming: of rows without ``name``: ``default`` is prompt and specification hash, ``vbench``
            is VBench's ``{prompt}-{index}``, the index from 0 to ``samples_per_prompt`` - 1.

    Raises:
        UserError: the pipeline or an override is wrong, for whichever row.
    """

    def __init__(
        self,
        pipeline: str = "toyworld",
        overrides: Iterable[tuple[str, Any] | Override] = (),
        seed: int = 0,
        *,
        samples_per_prompt: int = 1,
        naming: Naming = "default",
    ) -> None:
        if samples_per_prompt < 1:
            raise UserError(f"--samples-per-prompt {samples_per_prompt}: must be 1 or more")
        self._pipeline = pipeline
        self._overrides = [Override(*override) for override in overrides]
        self._seed = seed
        self._num_samples = samples_per_prompt
        self._naming = naming
        self._templates: OrderedDict[str, _Template] = OrderedDict()
        load_pipeline(pipeline, self._overrides)

    def check_columns(self, columns: Sequence[str]) -> None:
        """Refuse columns of a whole file that no row may have (UserError)."""
        for column in columns:
            check_key(column, "column")

    def jobs(self, row: CatalogRow) -> list[CatalogJob]:
        """The videos that a row asks for.

        Raises:
            UserError: one of them cannot be rendered; the message does not name the line.
        """
        own = {key: value for key in OWN_COLUMNS if (value := row.values.get(key)) is not None}
        template = self._template(own.get("pipeline"), settings_of(row.values))
        prompt, seed = prompt_of(own), whole_number(own, "seed", self._seed)
        priority = whole_number(own, "priority", 0)
        if abs(priority) > LARGEST_PRIORITY:
            raise UserError(
                f"priority = {priority}: must be from {-LARGEST_PRIORITY} to {LARGEST_PRIORITY}, "
                "of which higher goes first; leave it out for 0"
            )
        name = own.get("name")
        if name is not None:
            name = checked_name(text_of("name", name))
        made = []
        for index in range(self._num_samples):
            job = template.job_of(prompt, seed + index)
            chosen = self._name(job, name, index)
            made.append(CatalogJob(job, chosen, priority, row.line, template.group))
        return made

    def _name(self, job: VideoJob, name: str | None, index: int) -> str:
        if name is not None:
            return name if self._num_samples == 1 else checked_name(f"{name}-{index}")
        return video_name(job) if self._naming == "default" else vbench_name(job.prompt, index)

    def _template(self, pipeline: Any, settings: Sequence[Setting]) -> _Template:
        """What rows with the same settings share, the last ones at hand.

        Args:
            pipeline: that the row names.
            settings: of the row.
        """
        # 1 and True are equal, and not the same.
        key = repr((pipeline, settings))
        template = self._templates.pop(key, None)
        if template is None:
            name = self._pipeline if pipeline is None else text_of("pipeline", pipeline)
            if name != self._pipeline:
                _check_is_below(name)
            template = _Template(name, self._overrides, settings)
            if len(self._templates) >= _TEMPLATES:
                self._templates.popitem(last=False)
        self._templates[key] = template
        return template


def _check_is_below(pipeline: str) -> None:
    """Refuse a row's pipeline that is a file elsewhere than in the command's own folder: who writes
    a catalog need not be who may read all files (UserError)."""
    if not pipeline.endswith((".yaml", ".yml")):
        return
    folder = Path.cwd().resolve()
    try:
        is_below = (folder / pipeline).resolve().is_relative_to(folder)
    except (OSError, ValueError, RuntimeError):
        is_below = False
    if not is_below:
        raise UserError(
            f"pipeline = {pipeline!r}: a row names one of {', '.join(pipeline_names())}, or a "
            ".yaml file in the folder that the command runs in or below; put it there, or give it "
            "to the command: --pipeline FILE.yaml"
        )


class _Template:
    """A pipeline with settings, checked once; of whatever prompt and seed."""

    def __init__(
        self, pipeline: str, overrides: Sequence[Override], settings: Sequence[Setting]
    ) -> None:
        self._spec: PipelineSpec | None = None
        self._job: VideoJob | None = None
        try:
            own = [setting.override() for setting in settings]
            self._spec = load_pipeline(pipeline, [*overrides, *own])
            job = build_job(self._spec, _ANY_PROMPT, 0)
            _, width, height = file_shape(job.pipeline, facts(job.pipeline.model))
            formats.check(job.pipeline.encode, width, height)
            self._job = job
            self.group = group_of(job)
        except (UserError, FFmpegError, OSError, UnicodeEncodeError) as error:
            self._error = str(error)

    def job_of(self, prompt: PromptLike | None, seed: int) -> VideoJob:
        """As ``build_job``, of which it gives the same job or the same UserError."""
        if self._spec is None:
            raise UserError(self._error)
        prompts = timeline(self._spec, prompt)
        if not 0 <= seed < 2**63:
            build_job(self._spec, prompt, seed)
        if self._job is None:
            raise UserError(self._error)
        own = {
            "prompt": in_one_line(prompts),
            "prompts": prompts if len(prompts) > 1 else (),
            "seed": seed,
        }
        return self._job.model_copy(update=own)


def group_of(job: VideoJob) -> str:
    """Hex SHA-256 of what the actors of a run are started for: jobs of one group share them."""
    shared = {"model", "optimize", "denoise", "fuse", "decode", "preview", "resources"}
    return content_hash(
        {"model_identity": job.model_identity, **job.pipeline.model_dump(include=shared)}
    )
