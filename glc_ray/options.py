"""The options that say which video: the same ones for every front door that takes a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from glc_ray.cli import log_format_option, no_color_option
from glc_ray.config import METHODS
from glc_ray.pipeline_file import OPTION_KEYS, Override, parse_assignment, pipeline_names

Command = TypeVar("Command", bound=Callable[..., Any])

_VIDEO_OPTIONS = (
    click.option(
        "--prompt",
        "prompts",
        multiple=True,
        metavar="[FRAME: ]TEXT",
        help="What the video shows, from FRAME on where it is one of several. Repeatable. "
        "Default: the pipeline's own.",
    ),
    click.option(
        "--num-frames", type=int, metavar="N", help="Length in frames, 4k+1 for CogVideoX and Wan."
    ),
    click.option(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="Of all random numbers; same job and seed, same bits. [0]",
    ),
    click.option("--method", metavar="NAME", help=f"Long-video method: {', '.join(METHODS)}."),
)

_PIPELINE_OPTIONS = (
    click.option("--steps", type=int, metavar="N", help="Denoising steps."),
    click.option(
        "--guidance-scale",
        type=float,
        metavar="G",
        help="Classifier-free guidance; 1 turns it off.",
    ),
    click.option("--workers", type=int, metavar="N", help="Denoiser actors."),
    click.option(
        "--pipeline",
        default="toyworld",
        metavar="NAME|FILE.yaml",
        help=f"Model and settings: {', '.join(pipeline_names())}, or a file of yours. [toyworld]",
    ),
    click.option(
        "--set",
        "assignments",
        multiple=True,
        metavar="KEY.PATH=VALUE",
        help="Any key of the pipeline file, applied last, e.g. --set glc.vmcr=false. Repeatable.",
    ),
    click.option("--fps", type=float, metavar="F", help="Frames per second of the file."),
)


_OUTPUT_OPTION = click.option(
    "--output", default="output", metavar="URI", help="Folder or URI. [output]"
)
_ADDRESS_OPTION = click.option(
    "--address",
    metavar="RAY",
    help="A running Ray cluster. Default: the one that runs here or that RAY_ADDRESS names; else "
    "one is started.",
)
_TURN_OPTIONS = (
    click.option(
        "--wait", is_flag=True, help="Wait for another run on the output to end; else refuse."
    ),
    log_format_option,
    no_color_option,
)

_RUN_OPTIONS = (
    _OUTPUT_OPTION,
    _ADDRESS_OPTION,
    click.option(
        "--keep-latents",
        is_flag=True,
        help="Store the final latents, too, as OUTPUT/latents/NAME.safetensors.",
    ),
    click.option(
        "--from-latents",
        metavar="FILE",
        help="Decode and encode stored latents again, with other --set decode.KEY or encode.KEY.",
    ),
    click.option(
        "--force", is_flag=True, help="Render also what the manifest says is done already."
    ),
    click.option(
        "--report/--no-report",
        default=True,
        help="Keep OUTPUT/report/index.html, a page that shows the videos. [--report]",
    ),
    click.option(
        "--preview-every",
        type=int,
        metavar="N",
        help="Every N steps, pictures of what it is so far: a row of OUTPUT/previews/NAME.png. "
        "0 is none. [0]",
    ),
    *_TURN_OPTIONS,
)

_CATALOG_OPTIONS = (
    click.option(
        "--catalog",
        metavar="FILE|URI",
        help="Many videos: .jsonl, .csv, .parquet, or .txt with a prompt a line. Columns: prompt "
        "or prompts, name, seed, num_frames, fps, method, steps, guidance_scale, pipeline, "
        "priority, and keys of a pipeline file such as glc.vmcr.",
    ),
    click.option("--strict", is_flag=True, help="Refuse the whole catalog where a row is invalid."),
    click.option(
        "--samples-per-prompt",
        type=click.IntRange(min=1),
        default=1,
        metavar="N",
        help="Videos of each row, with seeds S, S+1, ... from the row's seed S. [1]",
    ),
    click.option(
        "--naming",
        type=click.Choice(["default", "vbench"]),
        default="default",
        help="Of rows without a name; vbench is {prompt}-{index}. [default]",
    ),
)


def request_options(command: Command) -> Command:
    """Give ``command`` ``prompts``, ``pipeline``, ``assignments``, ``seed`` and `overrides`."""
    return _with(command, (*_VIDEO_OPTIONS, *_PIPELINE_OPTIONS))


def comparison_options(command: Command) -> Command:
    """Give ``command`` what all videos of a comparison have in common, and where they go."""
    shared = (*_PIPELINE_OPTIONS, _OUTPUT_OPTION, _ADDRESS_OPTION, *_TURN_OPTIONS)
    return _with(command, shared)


def run_options(command: Command) -> Command:
    """Give ``command`` what says where a video goes and how it comes about."""
    return _with(command, _RUN_OPTIONS)


def catalog_options(command: Command) -> Command:
    """Give ``command`` ``catalog`` and what goes with it."""
    return _with(command, _CATALOG_OPTIONS)


def _with(command: Command, options: Iterable[Callable[[Command], Command]]) -> Command:
    for option in reversed(tuple(options)):
        command = option(command)
    return command


def overrides(given: Mapping[str, Any]) -> list[Override]:
    """Options with the specification keys that they set; None is an option that was not given."""
    return [
        Override(OPTION_KEYS[name], value, typed=f"--{name.replace('_', '-')} {value}")
        for name, value in given.items()
        if value is not None
    ]


def asked_for(options: Mapping[str, Any] | None, **given: Any) -> list[Override]:
    """What a request sets: options with names of their own, then specification keys."""
    return [*overrides(given), *(Override(*item) for item in (options or {}).items())]


def assigned(assignments: Iterable[str]) -> dict[str, Any]:
    """The values of a repeatable ``--set`` by specification key.

    The last of a key counts, at its place in the order.

    Raises:
        UserError: one is not ``KEY.PATH=VALUE``.
    """
    values: dict[str, Any] = {}
    for key, value in map(parse_assignment, assignments):
        values.pop(key, None)
        values[key] = value
    return values
