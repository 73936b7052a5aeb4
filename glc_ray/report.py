"""Front door: ``python -m glc_ray.report``: the page that shows an output, from its files alone."""

from __future__ import annotations

import click

from glc_ray.cli import FrontDoor


@click.command(cls=FrontDoor, short_help="Make the page that shows an output's videos.")
@click.argument("location", metavar="OUTPUT")
@click.option("--anew", is_flag=True, help="Make all of it again, not what has changed alone.")
def main(location: str, anew: bool) -> None:
    """Make OUTPUT/report/index.html: a page that shows the videos of OUTPUT, a folder or a URI.

    A render keeps it up to date by itself, unless it was asked not to; this makes it for others, or
    after a run that died. Open it from the folder or from any web server; nothing in it asks
    another one for anything. Needs no Ray.

    \b
    Examples:
      python -m glc_ray.report output
      python -m glc_ray.report s3://bucket/out
    """
    # Late, so that --help answers at once: these import pyarrow.
    from glc_ray.overview import check_is_output, run_state
    from glc_ray.report_page.report import Report
    from glc_ray.store.output import Output
    from glc_ray.store.paths import REPORT_PAGE

    place = Output(location)
    run, _, _ = run_state(place)
    check_is_output(place, run)
    report = Report(place)
    report.sync(anew=anew)
    # Again: it may have ended meanwhile.
    run, state, _ = run_state(place)
    report.write(run, state)
    click.echo(f"report         {place.uri(REPORT_PAGE)}")


if __name__ == "__main__":
    main()
