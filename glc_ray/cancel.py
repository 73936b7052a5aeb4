"""Front door: ``python -m glc_ray.cancel``: ask the run on an output to stop videos."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from glc_ray.cli import FrontDoor
from glc_ray.protocols import UserError

if TYPE_CHECKING:
    from glc_ray.store.output import Output
    from glc_ray.store.run_status import RunStatus

_ENDED = {
    "none": "no run has ever been there",
    "done": "its run is done",
    "stopped": "its run was stopped",
    "failed": "its run has ended with an error",
    "died": "its run has died",
}


@click.command(cls=FrontDoor, short_help="Stop videos of a run, or the whole run.")
@click.argument("location", metavar="OUTPUT")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--yes", is_flag=True, help="Cancel all of them without asking.")
def main(location: str, names: tuple[str, ...], yes: bool) -> None:
    """Cancel videos of the run on OUTPUT, by their NAMEs; without one, the whole run.

    A video in work stops at its next step, or segment where it is decoded, and frees its workers;
    one that is queued does not begin. What is finished is kept, and so are checkpoints, latents and
    segments: `glc-ray retry --cancelled OUTPUT` goes on from there.

    \b
    Examples:
      glc-ray cancel output a-red-ball-1f0c7a52
      glc-ray cancel s3://bucket/out --yes
    """
    # Late, so that --help answers at once: these import pyarrow.
    from glc_ray.overview import run_state
    from glc_ray.store.control import request_cancel
    from glc_ray.store.output import Output

    place = Output(location)
    run, state, _ = run_state(place)
    if run is None or state != "running":
        raise UserError(
            f"{place.uri()}: nothing to cancel: {_ENDED.get(state, state)}; `glc-ray status` shows "
            "what became of its videos"
        )
    if not names:
        _cancel_run(place, run, yes)
        return
    asked = []
    for name, is_asked, text in _judged(place, run, tuple(dict.fromkeys(names))):
        click.echo(f"{name}: {text}")
        asked += [name] * is_asked
    if asked:
        request_cancel(place, asked)


def _cancel_run(place: Output, run: RunStatus, yes: bool) -> None:
    from glc_ray.store.control import request_cancel

    what = f"{len(run.in_work)} videos in work and {run.num_queued} queued"
    where = f"the run on {place.uri()} (process {run.pid} on {run.host})"
    if not yes:
        try:
            yes = click.confirm(f"Cancel {where}, with {what}?")
        except click.Abort:
            raise UserError(
                f"{place.uri()}: nothing was cancelled, for nobody said yes; give --yes to cancel "
                "the run without being asked, or the NAMEs of videos"
            ) from None
    if not yes:
        click.echo("nothing was cancelled")
        return
    request_cancel(place)
    click.echo(
        f"{place.uri()}: asked; {what}: those in work stop at their next step or segment, no other "
        "begins. The same command as before goes on with them"
    )


def _judged(
    place: Output, run: RunStatus, names: tuple[str, ...]
) -> Iterator[tuple[str, bool, str]]:
    """Of each name whether to ask for its end, and what that means."""
    from glc_ray.display import describe

    in_work = {video.name: video for video in run.in_work}
    ended = _ended(place, names)
    for name in names:
        if name in in_work:
            text = f"{describe(in_work[name], None)}; asked, it stops at its next step"
            if in_work[name].state == "decoding":
                text = f"{describe(in_work[name], None)}; asked, it stops at its next segment"
            yield name, True, text
            continue
        status, finished_at = ended.get(name, ("", 0.0))
        if status == "done" or (status and finished_at >= run.started_at):
            yield name, False, f"{status} already, so there is nothing to cancel"
        elif status:
            yield name, True, f"{status} in an earlier run; asked, if it is queued again"
        else:
            near = difflib.get_close_matches(name, in_work, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            yield name, True, f"neither in work nor finished{hint}; asked, if it is queued"


def _ended(place: Output, names: tuple[str, ...]) -> dict[str, tuple[str, float]]:
    """Status and time of the newest row of each name that the manifest has."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from glc_ray.store import manifest

    found: dict[str, tuple[str, float]] = {}
    wanted = pa.array(names, pa.string())
    for batch in manifest.iter_batches(place, ("name", "status", "finished_at")):
        for row in batch.filter(pc.is_in(batch.column("name"), wanted)).to_pylist():
            known = found.get(row["name"])
            if known is None or known[1] <= row["finished_at"]:
                found[row["name"]] = (row["status"], row["finished_at"])
    return found


if __name__ == "__main__":
    main()
