"""Front door: ``python -m glc_ray.render``, ``glc-ray render``, ``from glc_ray import render``."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from glc_ray.cli import FrontDoor, RenderError
from glc_ray.options import assigned, overrides, request_options
from glc_ray.pipeline_file import load_pipeline
from glc_ray.prompts import from_command_line

if TYPE_CHECKING:
    from glc_ray.config import PipelineSpec, VideoJob
    from glc_ray.prompts import PromptLike
    from glc_ray.runtime.run import Run
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
    options: Mapping[str, Any] | None = None,
    output: str = "output",
    address: str | None = None,
    keep_latents: bool = False,
    from_latents: str | None = None,
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
        options: further specification keys by dotted path, ``{"glc.vmcr": False}``.
        output: folder or URI.
        address: of a running Ray cluster; None uses a running one and else starts one here.
        keep_latents: store the final latents as ``latents/NAME.safetensors``, too.
        from_latents: a latents file: only decode and encode it, with ``fps`` and those ``options``
            that do not change the latents; everything else is the file's. Where its model lies
            elsewhere on this machine: ``{"model.path": "FOLDER"}``.
        quiet: show no progress.

    Returns:
        The manifest row, a ``glc_ray.store.manifest.VideoRecord``.

    Raises:
        UserError: the request cannot be rendered; nothing was started.
        RenderError: the video failed.
    """
    given: dict[str, Any] = {
        "num_frames": num_frames,
        "fps": fps,
        "steps": steps,
        "workers": workers,
    }
    given |= {"guidance_scale": guidance_scale, "method": method}
    asked: list[Any] = [*overrides(given), *(options or {}).items()]
    if from_latents is not None:
        own = {"prompt": prompt, "pipeline": pipeline, "seed": seed}
        record = _encode_again(from_latents, own, asked, output, address, keep_latents, quiet)
    else:
        spec = load_pipeline(pipeline or "toyworld", asked)
        record = _render(spec, prompt, seed or 0, output, address, keep_latents, quiet)
    if record.status != "done":
        raise RenderError(f"{record.name}: {record.error}")
    return record


def _render(
    spec: PipelineSpec,
    prompt: PromptLike | None,
    seed: int,
    output: str,
    address: str | None,
    keep_latents: bool,
    quiet: bool,
) -> VideoRecord:
    # Late, so that --help and a wrong key answer at once: it imports torch and diffusers.
    from glc_ray.job import build_job, warn_of_mixed_prompts, warn_of_unknown_words

    job = build_job(spec, prompt, seed)
    place = _prepared(job, output)
    warn_of_unknown_words(job)
    warn_of_mixed_prompts(job)
    return _run(job, place, address, quiet, keep_latents=keep_latents, denoises=True)


def _encode_again(
    latents: str,
    own: Mapping[str, Any],
    asked: list[Any],
    output: str,
    address: str | None,
    keep_latents: bool,
    quiet: bool,
) -> VideoRecord:
    """Decode and encode stored latents, without denoisers; ``own`` is what they have of their own,
    as far as it was asked for nevertheless."""
    from glc_ray.runtime.rows import video_id
    from glc_ray.store.latents import copy_latents
    from glc_ray.store.paths import work_latents_path
    from glc_ray.stored_job import job_from_latents

    job = job_from_latents(latents, asked, **own)
    place = _prepared(job, output)
    copy_latents(latents, place, work_latents_path(video_id(job)))
    return _run(job, place, address, quiet, keep_latents=keep_latents, denoises=False)


def _prepared(job: VideoJob, output: str) -> Output:
    """The output, when everything that can be found out beforehand is right (UserError)."""
    from glc_ray.backbones.registry import facts
    from glc_ray.job import file_shape
    from glc_ray.media import formats
    from glc_ray.store import manifest
    from glc_ray.store.output import Output

    _, width, height = file_shape(job.pipeline, facts(job.pipeline.model))
    formats.check(job.pipeline.encode, width, height)
    place = Output(output)
    place.prepare()
    manifest.ids(place)
    return place


def _run(
    job: VideoJob,
    place: Output,
    address: str | None,
    quiet: bool,
    *,
    keep_latents: bool,
    denoises: bool,
) -> VideoRecord:
    from glc_ray.runtime.pipeline import Listed
    from glc_ray.runtime.run import Group, Run

    with Run(place, keep_latents=keep_latents, denoises=denoises) as run:
        run.expect(1)
        with _shown(run, 1, quiet):
            (record,) = run.render([Group(job.pipeline, Listed.of(job))], address)
    return record


def _shown(run: Run, num_videos: int, quiet: bool) -> AbstractContextManager[None]:
    from rich.console import Console

    from glc_ray.display import watching

    return nullcontext() if quiet else watching(run.progress, num_videos, Console(stderr=True))


@click.command(cls=FrontDoor)
@request_options
@click.option("--output", default="output", metavar="URI", help="Folder or URI. [output]")
@click.option(
    "--address",
    metavar="RAY",
    help="A running Ray cluster. Default: the one that runs "
    "here or that RAY_ADDRESS names; else one is started.",
)
@click.option(
    "--keep-latents",
    is_flag=True,
    help="Store the final latents, too, as OUTPUT/latents/NAME.safetensors.",
)
@click.option(
    "--from-latents",
    metavar="FILE",
    help="Decode and encode stored latents again, with other --set decode.KEY or encode.KEY.",
)
def main(
    prompts: tuple[str, ...],
    assignments: tuple[str, ...],
    output: str,
    **given: Any,
) -> None:
    """Render a long video from a prompt, on a Ray cluster.

    \b
    Examples:
      python -m glc_ray.render --prompt "a blue box rolls over the sea at night"
      python -m glc_ray.render \\
          --prompt "0: a red ball rolls over the meadow at day" \\
          --prompt "73: a red ball rolls over the sea at night"
      python -m glc_ray.render --num-frames 1201 --workers 4 --output /data/out
      ray job submit -- python -m glc_ray.render --pipeline cogvideox-2b \\
          --prompt "waves on a beach" --num-frames 289 --output s3://bucket/out

    OUTPUT gets videos/NAME.mp4, contact_sheets/NAME.png and manifest.parquet.
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    logging.addLevelName(logging.WARNING, "warning")
    context = click.get_current_context()
    for name in ("pipeline", "seed"):
        # Latents have their own, which a default does not contradict.
        if context.get_parameter_source(name) is ParameterSource.DEFAULT:
            given[name] = None
    record = render(
        from_command_line(prompts),
        options=assigned(assignments),
        output=output,
        quiet=False,
        **given,
    )
    from glc_ray.store.output import Output
    from glc_ray.store.paths import MANIFEST

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


class _CallableModule(ModuleType):
    """``from glc_ray import render`` gives this module, whatever was imported before; call it."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return render(*args, **kwargs)


if __name__ == "__main__":
    main()
else:
    sys.modules[__name__].__class__ = _CallableModule
