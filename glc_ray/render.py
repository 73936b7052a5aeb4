"""Front door: ``python -m glc_ray.render``, ``glc-ray render``, ``from glc_ray import render``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from glc_ray.cli import FrontDoor, RenderError
from glc_ray.logs import log_to_stderr
from glc_ray.options import asked_for, assigned, catalog_options, request_options, run_options
from glc_ray.pipeline_file import load_pipeline
from glc_ray.prompts import from_command_line
from glc_ray.protocols import UserError
from glc_ray.render_catalog import render_catalog

if TYPE_CHECKING:
    from glc_ray.config import PipelineSpec, VideoJob
    from glc_ray.prompts import PromptLike
    from glc_ray.store.manifest import VideoRecord
    from glc_ray.store.output import Output


def render(
    prompt: PromptLike | None = None,
    *,
    pipeline: str | None = None,
    seed: int | None = None,
    num_frames: int | None = None,
    fps: float | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    workers: int | None = None,
    method: str | None = None,
    preview_every: int | None = None,
    options: Mapping[str, Any] | None = None,
    output: str = "output",
    address: str | None = None,
    keep_latents: bool = False,
    from_latents: str | None = None,
    force: bool = False,
    report: bool = True,
    wait: bool = False,
    stops: bool = False,
    quiet: bool = True,
) -> VideoRecord:
    """Render one long video on Ray and wait for it.

    Args:
        prompt: what the video shows, or a timeline of prompts: a list of ``(frame, text)`` or
            ``{"at_frame": frame, "text": text}``, the first at frame 0; None renders the
            pipeline's own.
        pipeline: name or path of a pipeline file; None is toyworld.
        seed: of all randomness; same job, same bits. None is 0.
        num_frames: pixel frames, 4k+1 for CogVideoX.
        fps: frames per second of the file.
        steps: denoising steps.
        guidance_scale: classifier-free guidance; 1 turns it off.
        workers: denoiser actors.
        method: long-video method.
        preview_every: steps from one preview to the next, pictures of what it is so far in
            ``previews/NAME.png``; None or 0 is none.
        options: further specification keys by dotted path, ``{"glc.vmcr": False}``.
        output: folder or URI.
        address: of a running Ray cluster; None uses a running one and else starts one here.
        keep_latents: store the final latents as ``latents/NAME.safetensors``, too.
        from_latents: a latents file: only decode and encode it, with ``fps`` and those ``options``
            that do not change the latents; everything else is the file's. Where its model lies
            elsewhere on this machine: ``{"model.path": "FOLDER"}``.
        force: render it also where the output has it already.
        report: keep the page ``report/index.html`` of the output up to date.
        wait: for another run on the output to end; otherwise that is an error.
        stops: SIGTERM and SIGINT store what is in work and raise StoppedError.
        quiet: show no progress.

    Returns:
        The manifest row, a ``glc_ray.store.manifest.VideoRecord``.

    Raises:
        UserError: the request cannot be rendered; nothing was started.
        RenderError: the video failed.
        StoppedError: a signal asked for the end.
    """
    asked = asked_for(
        options,
        num_frames=num_frames,
        fps=fps,
        steps=steps,
        workers=workers,
        guidance_scale=guidance_scale,
        method=method,
        preview_every=preview_every,
    )
    way = _Way(output, address, keep_latents, force, report, wait, stops, quiet)
    if from_latents is not None:
        own = {"prompt": prompt, "pipeline": pipeline, "seed": seed}
        record = _encode_again(from_latents, own, asked, way)
    else:
        record = _render(load_pipeline(pipeline or "toyworld", asked), prompt, seed or 0, way)
    if record.status != "done":
        raise RenderError(record.failure)
    return record


@dataclass(frozen=True)
class _Way:
    """How a video is rendered: nothing that changes it."""

    output: str
    address: str | None
    keep_latents: bool
    force: bool
    report: bool
    wait: bool
    stops: bool
    quiet: bool


def _render(spec: PipelineSpec, prompt: PromptLike | None, seed: int, way: _Way) -> VideoRecord:
    # Late, so that --help and a wrong key answer at once: it imports torch and diffusers.
    from glc_ray.job import build_job, warn_of_mixed_prompts, warn_of_unknown_words

    job = build_job(spec, prompt, seed)
    place = _prepared(job, way.output)
    warn_of_unknown_words(job)
    warn_of_mixed_prompts(job)
    return _run(job, place, way)


def _encode_again(latents: str, own: Mapping[str, Any], asked: list[Any], way: _Way) -> VideoRecord:
    """Decode and encode stored latents, without denoisers; ``own`` is what they have of their own,
    as far as it was asked for nevertheless."""
    from glc_ray.stored_job import job_from_latents

    job = job_from_latents(latents, asked, **own)
    return _run(job, _prepared(job, way.output), way, latents=latents)


def _prepared(job: VideoJob, output: str) -> Output:
    """The output, when everything that can be found out beforehand is right (UserError)."""
    from glc_ray.backbones.registry import facts
    from glc_ray.job import file_shape
    from glc_ray.media import formats
    from glc_ray.store.output import Output

    _, width, height = file_shape(job.pipeline, facts(job.pipeline.model))
    formats.check(job.pipeline.encode, width, height)
    place = Output(output)
    place.prepare()
    return place


def _run(job: VideoJob, place: Output, way: _Way, *, latents: str | None = None) -> VideoRecord:
    """Render a job, or with ``latents``, a file, only decode and encode it."""
    from glc_ray.display import shown
    from glc_ray.runtime.pipeline import Listed
    from glc_ray.runtime.rows import video_id
    from glc_ray.runtime.run import Group, Run
    from glc_ray.store.latents import copy_latents
    from glc_ray.store.manifest import find
    from glc_ray.store.paths import work_latents_path

    with Run(
        place,
        keep_latents=way.keep_latents,
        denoises=latents is None,
        waits=way.wait,
        stops=way.stops,
        report=way.report,
    ) as run:
        before = find(place, video_id(job))
        is_done = before is not None and before.status == "done"
        if before is not None and is_done and not way.force and _is_there(place, before.path):
            return before
        if latents is not None:
            copy_latents(latents, place, work_latents_path(video_id(job)))
        run.expect(1)
        with shown(run.progress, 1, way.quiet, job.pipeline.resources.log_format):
            (record,) = run.render([Group(job.pipeline, Listed.of(job))], way.address)
    return record


def _is_there(place: Output, path: str) -> bool:
    # A file, or a folder of frames.
    return place.size(path) is not None or bool(place.list(path))


@click.command(cls=FrontDoor, short_help="Render a video from a prompt, or a catalog of them.")
@request_options
@run_options
@catalog_options
def main(
    prompts: tuple[str, ...],
    assignments: tuple[str, ...],
    output: str,
    catalog: str | None,
    strict: bool,
    samples_per_prompt: int,
    naming: str,
    log_format: str,
    **given: Any,
) -> None:
    """Render a long video from a prompt, or many from a catalog, on a Ray cluster.

    \b
    Examples:
      python -m glc_ray.render --prompt "a blue box rolls over the sea at night"
      python -m glc_ray.render \\
          --prompt "0: a red ball rolls over the meadow at day" \\
          --prompt "73: a red ball rolls over the sea at night"
      python -m glc_ray.render --num-frames 1201 --workers 4 --output /data/out
      ray job submit -- python -m glc_ray.render --pipeline cogvideox-2b \\
          --prompt "waves on a beach" --num-frames 289 --output s3://bucket/out
      python -m glc_ray.render --catalog prompts.jsonl --workers 8 --output out

    OUTPUT gets videos/NAME.mp4, contact_sheets/NAME.png, manifest.parquet, and report/index.html, a
    page that shows them. The same command again does only what is missing. Exit codes: 0 done, 1 a
    video failed, 2 the request cannot be rendered, 3 stopped by a signal, and the same command goes
    on from there.
    """
    log_to_stderr(log_format)
    context = click.get_current_context()
    for name in ("pipeline", "seed"):
        # Latents have their own, which a default does not contradict.
        if context.get_parameter_source(name) is ParameterSource.DEFAULT:
            given[name] = None
    # Actors follow the terminal, unless they are told otherwise.
    options = {"resources.log_format": log_format} | assigned(assignments)
    given |= {"options": options, "output": output, "stops": True, "quiet": False}
    if catalog is not None:
        _check_no_prompt(prompts, given.pop("from_latents"))
        ended = render_catalog(
            catalog,
            strict=strict,
            samples_per_prompt=samples_per_prompt,
            naming=naming,
            **given,
        )
        ended.tell(click.echo)
        return
    began = time.time()
    record = render(from_command_line(prompts), **given)
    if record.finished_at < began:
        click.echo("done before; --force renders it again")
    _tell(record, output, given["report"])


def _check_no_prompt(prompts: tuple[str, ...], from_latents: str | None) -> None:
    for option, value in (("--prompt", prompts), ("--from-latents", from_latents)):
        if value:
            raise UserError(
                f"{option}: a catalog's rows say what their videos show; leave it or --catalog out"
            )


def _tell(record: VideoRecord, output: str, has_report: bool) -> None:
    from glc_ray.store.output import Output
    from glc_ray.store.paths import MANIFEST, REPORT_PAGE

    place = Output(output)
    click.echo(
        f"{record.num_frames} frames of {record.width}x{record.height} in {record.total_s:.0f} s: "
        f"denoise {record.denoise_s:.1f} s, fuse {record.fuse_s:.1f} s, "
        f"refine {record.update_s:.1f} s, decode {record.decode_s:.1f} s, "
        f"encode {record.encode_s:.1f} s"
    )
    click.echo(f"video          {place.uri(record.path)}")
    click.echo(f"contact sheet  {place.uri(record.contact_sheet)}")
    click.echo(f"manifest       {place.uri(MANIFEST)}")
    if has_report:
        click.echo(f"report         {place.uri(REPORT_PAGE)}")


class _CallableModule(ModuleType):
    """``from glc_ray import render`` gives this module, whatever was imported before; call it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return render(*args, **kwargs)


if __name__ == "__main__":
    main()
else:
    sys.modules[__name__].__class__ = _CallableModule
