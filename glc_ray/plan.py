"""Front door: ``python -m glc_ray.plan``: what a request would take, before anything is started."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from typing import Any

import click

from glc_ray.cli import FrontDoor
from glc_ray.logs import log_to_stderr
from glc_ray.options import assigned, catalog_options, overrides, request_options, run_options
from glc_ray.pipeline_file import OPTION_KEYS, load_pipeline
from glc_ray.prompts import from_command_line
from glc_ray.protocols import UserError

_WITHOUT_EFFECT = frozenset(
    (
        "output",
        "address",
        "keep_latents",
        "from_latents",
        "force",
        "report",
        "preview_every",
        "wait",
        "catalog",
        "strict",
        "samples_per_prompt",
        "naming",
    )
)
"""Options of render that say nothing of what a video takes; --catalog is refused."""
_ANY_PROMPT = "any prompt"
_NO_PROMPT = (
    "no --prompt was given, and the pipeline has none: the figures are those of any one prompt; "
    "its text is part of the name and the specification_hash"
)


@click.command(cls=FrontDoor, short_help="What a request would take, before anything starts.")
@request_options
@click.option("--measure", is_flag=True, help="Time the job's batches here, with the real model.")
@click.option(
    "--seconds-per-forward",
    type=float,
    metavar="S",
    help="Seconds of a guided forward of one native window, in place of --measure.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, without the picture.")
# A command line of render's can be planned by changing the command's name: what makes no difference
# here is taken all the same, and hidden below.
@run_options
@catalog_options
def main(
    prompts: tuple[str, ...],
    pipeline: str,
    assignments: tuple[str, ...],
    seed: int,
    measure: bool,
    seconds_per_forward: float | None,
    as_json: bool,
    catalog: str | None,
    **given: Any,
) -> None:
    """Say what a request would take: windows, forwards, operations, memory, transfers, time.

    Reads the model's configuration files; starts no Ray, and loads no weights but for --measure.

    \b
    Examples:
      python -m glc_ray.plan --num-frames 289 --measure
      python -m glc_ray.plan --pipeline cogvideox-2b --num-frames 1201 --workers 16 \\
          --seconds-per-forward 4.5
    """
    if catalog is not None:
        raise UserError(
            f"--catalog {catalog}: plan tells what one video takes; give the prompt, length and "
            "settings of one of its rows"
        )
    _check(measure, seconds_per_forward)
    log_to_stderr(given["log_format"])
    # Where a video goes, and who renders it, makes no difference here.
    given = {name: value for name, value in given.items() if name in OPTION_KEYS}
    spec = load_pipeline(pipeline, [*overrides(given), *assigned(assignments).items()])
    prompt = from_command_line(prompts)
    is_without = prompt is None and spec.prompt is None and not spec.prompts
    if is_without:
        prompt = _ANY_PROMPT

    # Late, so that --help and a wrong key answer at once: these import torch and diffusers.
    from rich.console import Console

    from glc_ray.backbones.registry import facts
    from glc_ray.estimate.build import estimate
    from glc_ray.estimate.measure import measure as take_measurement
    from glc_ray.estimate.show import show
    from glc_ray.estimate.work import steps_of
    from glc_ray.job import build_job, warn_of_mixed_prompts, warn_of_unknown_words

    job = build_job(spec, prompt, seed, weights=measure)
    if not is_without:
        warn_of_unknown_words(job)
        warn_of_mixed_prompts(job)
    steps = steps_of(job, facts(job.pipeline.model))
    measurement = take_measurement(job, steps, on_batch=_tell) if measure else None
    result = estimate(
        job, steps=steps, seconds_per_window=seconds_per_forward, measurement=measurement
    )
    if is_without:
        result = replace(result, notes=(*result.notes, _NO_PROMPT))
    if as_json:
        click.echo(json.dumps(asdict(result), indent=2))
    else:
        show(result, steps[0].plan, Console())


for _option in main.params:
    if _option.name in _WITHOUT_EFFECT and isinstance(_option, click.Option):
        _option.hidden = True


def _check(measure: bool, seconds_per_forward: float | None) -> None:
    if seconds_per_forward is None:
        return
    if measure:
        raise UserError(
            f"--seconds-per-forward {seconds_per_forward:g} and --measure: both say how long a "
            "forward takes; give one of them"
        )
    if not 0 < seconds_per_forward < float("inf"):
        raise UserError(
            f"--seconds-per-forward {seconds_per_forward:g}: must be above 0; give the seconds "
            "that a guided forward of one window takes, for example --seconds-per-forward 4.5"
        )


def _tell(done: int, total: int) -> None:
    if sys.stderr.isatty():
        click.echo(f"\rtimed {done} of {total} kinds of batch", nl=done == total, err=True)


if __name__ == "__main__":
    main()
