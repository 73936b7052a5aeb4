"""Front door: ``python -m glc_ray.compare``: the same prompts and seeds through several methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from glc_ray.cli import FrontDoor
from glc_ray.comparison.variants import ABLATION, parse_variants
from glc_ray.logs import log_to_stderr
from glc_ray.options import asked_for, assigned, comparison_options
from glc_ray.protocols import UserError

if TYPE_CHECKING:
    from glc_ray.comparison.design import Design
    from glc_ray.comparison.pictures import Pictures
    from glc_ray.comparison.table import Row
    from glc_ray.render_catalog import CatalogEnd


@dataclass(frozen=True)
class Comparison:
    """What came out."""

    design: Design
    rows: tuple[Row, ...]
    """By length, score and method."""
    page: str
    """Markdown with tables, figures and pictures, for people."""
    table: str
    """The rows as Parquet; as CSV beside it."""
    values: str
    """Every video's scores, as Parquet."""
    pictures: tuple[Pictures, ...]
    """Of the cases that are drawn; paths are below the output."""
    end: CatalogEnd | None
    """Of the rendering; None where nothing was to be rendered."""


def compare(
    prompts: Sequence[str],
    methods: Sequence[str] = ("glc", "direct"),
    *,
    seeds: Sequence[int] = (0,),
    num_frames: Sequence[int] = (),
    pipeline: str | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    fps: float | None = None,
    workers: int | None = None,
    options: Mapping[str, Any] | None = None,
    output: str = "output",
    address: str | None = None,
    scores: Sequence[str] = (),
    columns: int = 6,
    pictures: int | None = None,
    anew: bool = False,
    renders: bool = True,
    wait: bool = False,
    stops: bool = False,
    quiet: bool = True,
) -> Comparison:
    """Render every prompt with every seed and length by every method, then score and draw them.

    What the output has is not rendered, scored or drawn again.

    Args:
        prompts: what the videos show.
        methods: names as of ``glc_ray.comparison.variants``; the first is what the others are
            compared with.
        seeds: of all randomness.
        num_frames: lengths in frames; empty is the pipeline's own.
        pipeline, steps, guidance_scale, fps, workers, options: as of ``render``, for all videos.
        output: folder or URI.
        address: of a running Ray cluster; None uses a running one and else starts one here.
        scores: as of ``evaluate``; empty is its own default and the truth of ``toyworld``.
        columns: instants that a strip shows.
        pictures: cases that are drawn, the first of each length; None is all.
        anew: score and draw also what is scored and drawn already.
        renders: what is not finished; otherwise what is finished is compared, also while another
            process renders the rest, which has the report page for itself.
        wait: for another run on the output to end; otherwise that is an error.
        stops: SIGTERM and SIGINT store what is in work and raise StoppedError.
        quiet: show no progress.

    Raises:
        UserError: something cannot be rendered; nothing was started.
        StoppedError: a signal asked for the end.
        StorageError, FFmpegError: a video cannot be read, or a result not stored.
    """
    from glc_ray.catalog import CatalogJobs
    from glc_ray.comparison.design import design
    from glc_ray.comparison.results import CATALOG, PAGE, TABLE, VALUES, Results
    from glc_ray.comparison.values import Scorer
    from glc_ray.evaluation.scores.registry import DEFAULT
    from glc_ray.pipeline_file import load_pipeline
    from glc_ray.render_catalog import render_catalog
    from glc_ray.scored_output import show_scores
    from glc_ray.store.output import Output

    settings = {
        "fps": fps,
        "steps": steps,
        "workers": workers,
        "guidance_scale": guidance_scale,
    }
    name = pipeline or "toyworld"
    asked = asked_for(options, **settings)
    lengths = num_frames or (load_pipeline(name, asked).video.num_frames,)
    plan = design(parse_variants(methods), prompts, seeds, lengths)
    cells = plan.cells(CatalogJobs(name, asked))
    scorer = Scorer(scores or (*DEFAULT, "toyworld"), anew=anew)
    place = Output(output)
    place.prepare()
    end = None
    if renders:
        plan.write(place, CATALOG)
        end = render_catalog(
            place.location_of(CATALOG),
            pipeline=name,
            options=options,
            output=output,
            address=address,
            strict=True,
            wait=wait,
            stops=stops,
            quiet=quiet,
            **settings,  # type: ignore[arg-type]
        )
    results = Results(place, plan, cells, anew=anew, tell=_say_nothing if quiet else _say)
    rows = results.rows(scorer)
    # Now: drawing takes long, and may be interrupted.
    results.store(rows, [])
    drawn = results.draw(columns=columns, cases=pictures)
    results.store(rows, drawn)
    # The page is the run's as long as there is one.
    show_scores(place, report=renders)
    return Comparison(
        design=plan,
        rows=tuple(rows),
        page=place.uri(PAGE),
        table=place.uri(TABLE),
        values=place.uri(VALUES),
        pictures=tuple(drawn),
        end=end,
    )


def _say(text: str) -> None:
    """Where progress goes, beside what a command prints."""
    click.echo(text, err=True)


def _say_nothing(text: str) -> None:
    pass


@click.command(cls=FrontDoor, short_help="The same prompts and seeds by several methods.")
@click.option(
    "--prompt",
    "prompts",
    multiple=True,
    metavar="TEXT",
    help="What the videos show. Repeatable.",
)
@click.option("--prompts-file", metavar="FILE", help="More of them, one a line.")
@click.option(
    "--methods",
    default="glc,direct",
    metavar="A,B,...",
    help="The first is what the others are compared with. ablation is "
    f"{','.join(ABLATION)}. [glc,direct]",
)
@click.option(
    "--seeds", default="0", metavar="S,...|S-S", help="Of every prompt: 0,1,2 or 0-9. [0]"
)
@click.option(
    "--num-frames",
    "lengths",
    default="",
    metavar="N,...",
    help="Lengths in frames, 4k+1 for CogVideoX and Wan. Default: the pipeline's own.",
)
@click.option(
    "--scores",
    default="",
    metavar="NAME,...",
    help="Kinds or single scores, as of evaluate. [all but rife and vbench]",
)
@click.option(
    "--columns",
    type=click.IntRange(2, 24),
    default=6,
    metavar="N",
    help="Pictures in a row of a strip. [6]",
)
@click.option(
    "--pictures",
    type=click.IntRange(min=0),
    metavar="N",
    help="Draw the first N (prompt, seed) of a length. Default: all.",
)
@click.option("--anew", is_flag=True, help="Score and draw again what is scored and drawn already.")
@click.option(
    "--render/--no-render",
    "renders",
    default=True,
    help="Render what is missing; else compare what is finished, also during a run. [--render]",
)
@comparison_options
def main(
    prompts: tuple[str, ...],
    prompts_file: str | None,
    methods: str,
    seeds: str,
    lengths: str,
    scores: str,
    assignments: tuple[str, ...],
    log_format: str,
    **given: Any,
) -> None:
    """Compare methods: the same prompts and seeds through each of them.

    \b
    A method is
      glc, direct, gen_l_video, freenoise, freelong
      glc:annealed                  another preset of gamma
      glc-glcd, glc-global_path, glc-local_path, glc-noise_reinit, glc-abam, glc-vmcr
                                    glc without a part
      glc+stride=3, freenoise+stride=2, glc:annealed-abam+vmcr.weight=1.0e-4
                                    other keys of its section of the pipeline file
    \b
    Examples:
      python -m glc_ray.compare --prompt "a blue box rolls over the sea at night"
      python -m glc_ray.compare --prompts-file prompts.txt --methods ablation \\
          --seeds 0-4 --num-frames 145,289 --output comparison

    OUTPUT is what render makes of a catalog, with OUTPUT/comparison/README.md beside it: a table
    with intervals over prompts and seeds, strips, and the videos beside each other. The same
    command again does only what is missing. Exit codes are those of render.
    """
    from glc_ray.comparison.design import read_prompts

    log_to_stderr(log_format)
    texts = [*prompts, *(read_prompts(prompts_file) if prompts_file else ())]
    options = {"resources.log_format": log_format} | assigned(assignments)
    found = compare(
        texts,
        methods.split(","),
        seeds=_numbers("--seeds", seeds, "0,1,2 or 0-9"),
        num_frames=_numbers("--num-frames", lengths, "145,289") if lengths else (),
        scores=[word.strip() for word in scores.split(",") if word.strip()],
        options=options,
        stops=True,
        quiet=False,
        **given,
    )
    _tell(found)


def _tell(found: Comparison) -> None:
    from rich.console import Console

    from glc_ray.comparison.page import show

    if not found.rows:
        click.echo("no video of this comparison is finished yet")
    show(found.rows, found.design.lengths, Console())
    click.echo()
    click.echo(f"page           {found.page}")
    click.echo(f"table          {found.table}")
    click.echo(f"videos' scores {found.values}")
    if found.end is not None:
        found.end.tell(click.echo)


_MOST_NUMBERS = 10_000


def _numbers(option: str, text: str, example: str) -> list[int]:
    """``0,2,5-7`` as 0, 2, 5, 6, 7.

    Raises:
        UserError: it is something else.
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        try:
            span = range(int(first), int(last or first) + 1)
        except ValueError:
            span = range(0)
        # Its length need not fit into a machine's integer, which len() asks for.
        size = span.stop - span.start
        if size <= 0 or len(numbers) + size > _MOST_NUMBERS:
            raise UserError(
                f"{option} {text}: {part.strip()!r} is no whole number and no rising span of at "
                f"most {_MOST_NUMBERS} of them; write it as {example}"
            )
        numbers += span
    return numbers


if __name__ == "__main__":
    main()
