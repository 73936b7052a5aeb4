"""Front door: ``python -m glc_ray.status``: where an output stands, during a run and after it."""

from __future__ import annotations

import json
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeAlias

import click

from glc_ray.cli import FrontDoor, no_color_option

if TYPE_CHECKING:
    from glc_ray.overview import Overview
    from glc_ray.store.output import Output

_LOOPBACK = "127.0.0.1"
_POLL_S = 2.0
_LOG_EVERY_S = 10.0
_READ_SHARE = 0.1
"""Of the time, reading takes at most this share."""

_Show: TypeAlias = "Callable[[Overview], None]"


@click.command(cls=FrontDoor, short_help="Where the videos of an output stand; its metrics.")
@click.argument("location", metavar="OUTPUT")
@click.option("--watch", is_flag=True, help="Show it again and again until the run ends.")
@click.option("--all", "every", is_flag=True, help="A line for every video that is not queued.")
@click.option(
    "--json", "as_json", is_flag=True, help="One JSON object a look; with --all one more a video."
)
@click.option(
    "--serve-metrics",
    "port",
    type=click.IntRange(0, 65535),
    metavar="PORT",
    help="Serve the output's metrics to Prometheus at this port until Ctrl-C; 0 takes any that is "
    "free.",
)
@no_color_option
@click.option(
    "--host",
    default=_LOOPBACK,
    metavar="IP",
    help=f"Address that --serve-metrics listens on. [{_LOOPBACK}]",
)
def main(
    location: str, watch: bool, every: bool, as_json: bool, port: int | None, host: str
) -> None:
    """Show where the videos of OUTPUT, a folder or a URI, stand.

    Works during a run and after it, from any machine that sees OUTPUT; needs no Ray.

    \b
    Exit codes:
      0  everything is done (or was cancelled)
      1  the run has ended, and a video failed or a row of the catalog is invalid
      2  OUTPUT is no output of glc-ray (--serve-metrics waits until it is one)
      3  the run was stopped, cancelled or died, and videos are left: the same
         command as before goes on with them
      4  a run is at it
    \b
    Examples:
      python -m glc_ray.status output --watch
      python -m glc_ray.status s3://bucket/out --json
      python -m glc_ray.status output --serve-metrics 9464
    """
    # Late, so that --help answers at once: these import pyarrow.
    from glc_ray.overview_text import video_facts, video_lines
    from glc_ray.store.output import Output

    place = Output(location)
    if port is not None:
        _serve(place, port, host)
        return
    found = _watch(place, as_json) if watch else next(_looks(place))
    if not watch:
        _print(found, as_json)
    if every:
        as_text = map(json.dumps, video_facts(place, found))
        for line in as_text if as_json else video_lines(place, found):
            click.echo(line)
    click.get_current_context().exit(found.exit_code)


def _serve(place: Output, port: int, host: str) -> None:
    """Until a person has had enough."""
    from glc_ray.exporter import serving
    from glc_ray.logs import log_to_stderr

    log_to_stderr()
    with serving(place, port, host) as port, suppress(KeyboardInterrupt):
        click.echo(f"metrics of {place.uri()} at http://{host}:{port}/metrics")
        threading.Event().wait()


def _watch(place: Output, as_json: bool) -> Overview:
    """Show what is found until the run ends, or a person has seen enough."""
    display = _as_json if as_json else _live if sys.stdout.isatty() else _log
    found = None
    with display() as show:
        try:
            for found in _looks(place):
                show(found)
        except KeyboardInterrupt:
            if found is None:
                raise
    assert found is not None
    return found


def _looks(place: Output) -> Iterator[Overview]:
    from glc_ray.overview import overview

    while True:
        start = time.monotonic()
        found = overview(place)
        pause_s = max(_POLL_S, (time.monotonic() - start) / _READ_SHARE)
        yield found
        if found.run_state != "running":
            return
        time.sleep(pause_s)


@contextmanager
def _as_json() -> Iterator[_Show]:
    yield lambda found: _print(found, True)


@contextmanager
def _live() -> Iterator[_Show]:
    """The terminal's last lines, renewed."""
    from rich.console import Console
    from rich.live import Live

    from glc_ray.display import Eta
    from glc_ray.overview_text import lines, styled

    eta = Eta()
    with Live(console=Console(), auto_refresh=False, vertical_overflow="crop") as live:
        yield lambda found: live.update(styled(lines(found, eta)), refresh=True)


@contextmanager
def _log() -> Iterator[_Show]:
    """A line now and then, and everything at the end."""
    from glc_ray.overview_text import one_line

    said_at = -math.inf
    latest = None

    def show(found: Overview) -> None:
        nonlocal said_at, latest
        now, latest = time.monotonic(), found
        if found.run_state == "running" and now - said_at >= _LOG_EVERY_S:
            said_at = now
            click.echo(one_line(found))

    yield show
    if latest is not None:
        _print(latest, False)


def _print(found: Overview, as_json: bool) -> None:
    from rich.console import Console

    from glc_ray.overview_text import facts, lines, styled

    if as_json:
        click.echo(json.dumps(facts(found)))
    else:
        Console().print(styled(lines(found)), soft_wrap=True)


if __name__ == "__main__":
    main()
