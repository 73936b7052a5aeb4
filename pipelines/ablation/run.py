"""The paper's comparison and ablation on the embedded model: render, score, report.

    python pipelines/ablation/run.py --results pipelines/ablation/results

Every method and ablation on the same prompts and seeds, at the paper's lengths: 145, 289 and 1,201
frames, which are 6, 12 and 48 clips of this model. It goes on where it was stopped: Ctrl-C, or a
kill, and the same command again. After every length, and with --no-render at any time, it writes
what is finished of it and of the methods that were given to a page of the length's own, 145.md.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
from PIL import Image
from report import Length, write_report

from glc_ray.cli import FrontDoor, RenderError
from glc_ray.compare import compare
from glc_ray.comparison.design import read_prompts
from glc_ray.comparison.plot import svg
from glc_ray.comparison.variants import ABLATION
from glc_ray.logs import log_to_stderr
from glc_ray.options import assigned
from glc_ray.protocols import UserError
from glc_ray.store.storage import expanded

HERE = Path(__file__).parent
PLAN = {145: 30, 289: 12, 1201: 5}
"""Prompts by length in frames: intervals need five."""
PROOF = {29: 5}
PROOF_METHODS = ("glc", "glc-vmcr", "glc-glcd", "direct")


@click.command(cls=FrontDoor)
@click.option("--output", default="output/ablation", metavar="FOLDER", help="[output/ablation]")
@click.option(
    "--results", metavar="FOLDER", help="Where pages and their files go. [OUTPUT/results]"
)
@click.option("--methods", default=",".join(ABLATION), metavar="A,B,...", help="As of compare.")
@click.option(
    "--length",
    "lengths",
    type=(int, int),
    multiple=True,
    metavar="FRAMES PROMPTS",
    help=f"Repeatable. [{', '.join(f'{frames} {count}' for frames, count in PLAN.items())}]",
)
@click.option("--scores", default="", metavar="NAME,...", help="As of compare.")
@click.option("--seeds", type=int, default=1, metavar="N", help="Of every prompt, from 0 on. [1]")
@click.option("--pipeline", default="toyworld", metavar="NAME|FILE.yaml", help="[toyworld]")
@click.option("--set", "assignments", multiple=True, metavar="KEY.PATH=VALUE", help="As of render.")
@click.option("--workers", type=int, metavar="N", help="Denoiser actors.")
@click.option("--address", metavar="RAY", help="A running Ray cluster, as of render.")
@click.option("--render/--no-render", "renders", default=True, help="Else report what is finished.")
@click.option("--proof", is_flag=True, help="Minutes, 2 steps: shows that it works, no more.")
def main(
    output: str,
    results: str | None,
    methods: str,
    lengths: tuple[tuple[int, int], ...],
    scores: str,
    seeds: int,
    assignments: tuple[str, ...],
    renders: bool,
    proof: bool,
    **given: Any,
) -> None:
    """Run the paper's ablation on the embedded model, and write its report."""
    log_to_stderr("text")
    prompts = read_prompts(str(HERE / "prompts.txt"))
    plan = dict(lengths) or (PROOF if proof else PLAN)
    names = list(PROOF_METHODS) if proof else methods.split(",")
    options = assigned(assignments) | ({"sampling.num_steps": 2} if proof else {})
    if "://" in output or "://" in (results or ""):
        raise UserError("--output, --results: are folders of this machine here, no URIs")
    output = str(expanded(output))
    folder = expanded(results) if results else Path(output, "results")
    if max(plan.values()) > len(prompts) or min(plan.values()) < 1 or seeds < 1:
        raise UserError(
            f"--length, --seeds: there are {len(prompts)} prompts, of which a length takes 1 or "
            "more, and a prompt takes 1 seed or more"
        )
    failed: list[RenderError] = []
    for num_frames, count in plan.items():
        place = f"{output}/{num_frames}"
        click.echo(f"{num_frames} frames: {count} prompts, {len(names)} methods, in {place}")
        found = compare(
            prompts[:count],
            names,
            seeds=range(seeds),
            scores=[word.strip() for word in scores.split(",") if word.strip()],
            num_frames=(num_frames,),
            options=options,
            output=place,
            pictures=3,
            renders=renders,
            stops=True,
            quiet=False,
            **given,
        )
        if found.rows:
            length = _taken_over(num_frames, count, seeds, found, Path(place), folder)
            click.echo(f"report         {write_report(folder, length, options)}")
        try:
            if found.end is not None:
                found.end.tell(click.echo)
        except RenderError as error:
            # The other lengths are worth having all the same.
            click.echo(f"{num_frames} frames: {error}", err=True)
            failed.append(error)
    if failed:
        raise failed[0]


def _taken_over(
    num_frames: int, num_prompts: int, num_seeds: int, found: Any, place: Path, folder: Path
) -> Length:
    """Copy what the report shows of a length; the videos stay where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    plot = f"differences-{num_frames}.svg"
    if len(found.design.variants) > 1:
        (folder / plot).write_text(svg(found.rows, f"{num_frames} frames"), encoding="utf-8")
    strips = ""
    if found.pictures:
        strips = f"strips-{num_frames}.png"
        # With 256 colours it is half the size, and no different to the eye.
        with Image.open(place / found.pictures[0].strips) as picture:
            picture.quantize().save(folder / strips, optimize=True)
    table = f"table-{num_frames}.csv"
    shutil.copyfile(place / "comparison" / "table.csv", folder / table)
    return Length(num_frames, num_prompts, num_seeds, found.rows, plot, strips, table)


if __name__ == "__main__":
    main()
