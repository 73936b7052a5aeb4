"""Front door: ``python -m glc_ray.retry``: render failed videos of an output again."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from glc_ray.cli import FrontDoor, RenderError, log_format_option, no_color_option
from glc_ray.logs import log_to_stderr
from glc_ray.protocols import UserError

if TYPE_CHECKING:
    from glc_ray.catalog import CatalogJob
    from glc_ray.config import ModelSpec, VideoJob
    from glc_ray.store.output import Output

_LOG = logging.getLogger(__name__)
_FIRST_COLUMNS = ("id", "name", "status", "finished_at")
_COLUMNS = ("id", "name", "specification", "priority", "catalog_line", "catalog")


@click.command(cls=FrontDoor, short_help="Render the failed videos of an output again.")
@click.argument("location", metavar="OUTPUT")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--cancelled", is_flag=True, help="Those that were cancelled, too.")
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Denoiser actors.")
@click.option(
    "--address",
    metavar="RAY",
    help="A running Ray cluster. Default: the one that runs "
    "here or that RAY_ADDRESS names; else one is started.",
)
@click.option("--keep-latents", is_flag=True, help="Store the final latents, too, as render does.")
@log_format_option
@no_color_option
def main(
    location: str,
    names: tuple[str, ...],
    cancelled: bool,
    workers: int | None,
    address: str | None,
    keep_latents: bool,
    log_format: str,
) -> None:
    """Render the failed videos of OUTPUT again; with NAMEs those, failed or cancelled.

    The manifest says how: no catalog or pipeline file is needed. A video goes on from its last
    checkpoint, and what was decoded of it is not decoded again.

    \b
    Examples:
      glc-ray retry output
      glc-ray retry output a-red-ball-1f0c7a52 --workers 4
      ray job submit -- python -m glc_ray.retry s3://bucket/out --cancelled
    """
    log_to_stderr(log_format)
    # Late, so that --help answers at once: these import pyarrow.
    from glc_ray.overview import check_is_output
    from glc_ray.store.output import Output

    place = Output(location)
    check_is_output(place, None)
    chosen = choose(place, names, cancelled=cancelled)
    for note in chosen.notes:
        click.echo(note, err=True)
    if not chosen.ids:
        click.echo(f"{place.uri()}: nothing to retry")
        return
    # And these torch, diffusers and Ray.
    from glc_ray.runtime.retries import render_jobs

    place.prepare()
    ended = render_jobs(
        place,
        jobs(place, chosen, workers=workers),
        address=address,
        keep_latents=keep_latents,
        stops=True,
    )
    if lost := ended["failed"]:
        raise RenderError(f"{lost} of {sum(ended.values())} failed: `glc-ray status` says why")
    click.echo(f"{place.uri()}: {ended['done']} of {sum(ended.values())} done")


@dataclass
class Chosen:
    """The videos to retry."""

    ids: dict[str, str] = field(default_factory=dict)
    """Their names by their ids in the manifest."""
    notes: list[str] = field(default_factory=list)
    """What a person should know of the others."""


def choose(place: Output, names: tuple[str, ...] = (), *, cancelled: bool = False) -> Chosen:
    """Which videos of an output to render again.

    Args:
        place: the output.
        names: of videos, failed or cancelled; none takes all that failed.
        cancelled: without names, those that were cancelled, too.

    Raises:
        UserError: there is no video of one of the names.
        StorageError: storage cannot be read.
    """
    statuses = ("failed", "cancelled") if cancelled or names else ("failed",)
    found: dict[str, tuple[str, float]] = {}
    others: dict[str, str] = {}
    num_invalid = 0
    wanted = {"name": names} if names else {"status": (*statuses, "invalid")}
    for row in _rows(place, _FIRST_COLUMNS, wanted):
        if row["status"] in statuses:
            found[row["id"]] = (row["name"], row["finished_at"])
        elif names:
            others[row["name"]] = row["status"]
        num_invalid += row["status"] == "invalid"
    newest = _newest(place, {name for name, _ in found.values()})
    chosen = Chosen({id_: name for id_, (name, _) in found.items() if newest[name] == id_})
    known = {name for name, _ in found.values()} | others.keys()
    if unknown := [name for name in names if name not in known]:
        raise UserError(
            f"NAME {unknown[0]}: {place.uri()} has no such video; `glc-ray status --all` lists "
            "those that it has"
        )
    chosen.notes = [
        f"{name}: done already, so it is not rendered again"
        for name, status in others.items()
        if status == "done"
    ]
    if num_invalid:
        chosen.notes.append(
            f"{num_invalid} invalid {'row' if num_invalid == 1 else 'rows'} of a catalog cannot be "
            "retried, for none is a video: mend them there, and render the catalog again"
        )
    return chosen


def jobs(place: Output, chosen: Chosen, *, workers: int | None = None) -> Iterator[CatalogJob]:
    """The jobs of chosen videos, from the specifications that the manifest holds.

    One that cannot be rendered any more as it was meant is left out, with a warning in the log.

    Args:
        place: the output.
        chosen: of its videos.
        workers: denoiser actors; None is what each specification says.

    Raises:
        UserError: none of them can be rendered.
        StorageError: storage cannot be read.
    """
    stream = _jobs(place, chosen, workers)
    # Now, and not when a cluster has been started.
    first = next(stream, None)
    if first is None:
        raise UserError(
            f"{place.uri()}: none of the {len(chosen.ids)} videos can be retried, for the reasons "
            "above; render them anew"
        )
    return itertools.chain([first], stream)


def _jobs(place: Output, chosen: Chosen, workers: int | None) -> Iterator[CatalogJob]:
    from glc_ray.catalog import CatalogJob, group_of

    models = _Models()
    for row in _rows(place, _COLUMNS, {"id": tuple(chosen.ids)}):
        try:
            job, name = _job(row, models)
        except UserError as error:
            _LOG.warning("%s: not retried: %s", row["name"], error)
            continue
        if workers is not None:
            job = _with_workers(job, workers)
        yield CatalogJob(
            job, name, row["priority"], row["catalog_line"], group_of(job), row["catalog"]
        )


def _job(row: Mapping[str, Any], models: _Models) -> tuple[VideoJob, str]:
    """The job and the name of a row, if both are still what they were (UserError)."""
    from pydantic import ValidationError

    from glc_ray.config import VideoJob
    from glc_ray.names import checked_name

    # Whoever may write the manifest must not be able to write elsewhere.
    name = checked_name(row["name"])
    try:
        job = VideoJob.model_validate_json(row["specification"])
    except ValidationError:
        raise UserError("its specification is one of another version of glc-ray") from None
    if not job.specification_hash.startswith(row["id"]):
        raise UserError("by this version of glc-ray it would be another video")
    models.check(job)
    return job, name


class _Models:
    """Whether models are still those that videos were to be rendered with, each looked at once."""

    def __init__(self) -> None:
        self._found: dict[ModelSpec, str] = {}

    def check(self, job: VideoJob) -> None:
        """Raises UserError where the job's model is gone, or is another one now."""
        from glc_ray.backbones import model_folder

        model = job.pipeline.model
        if model not in self._found:
            model_folder.check_weights(model)
            self._found[model] = model_folder.identity(model)
        if self._found[model] != job.model_identity:
            raise UserError(
                f"model.path = {model.path!r}: its files have changed since, so it would be "
                "another video"
            )


def _with_workers(job: VideoJob, workers: int) -> VideoJob:
    resources = job.pipeline.resources
    denoisers = resources.denoisers.model_copy(update={"count": workers})
    resources = resources.model_copy(update={"denoisers": denoisers})
    pipeline = job.pipeline.model_copy(update={"resources": resources})
    return job.model_copy(update={"pipeline": pipeline})


def _newest(place: Output, names: set[str]) -> dict[str, str]:
    """Id of the newest video of each name: a row of a catalog that was changed since it failed has
    another one, whose files an older one must not replace."""
    newest: dict[str, tuple[float, str]] = {}
    for row in _rows(place, _FIRST_COLUMNS, {"name": tuple(names)}):
        known = newest.get(row["name"])
        newest[row["name"]] = max(known or (-1.0, ""), (row["finished_at"], row["id"]))
    return {name: id_ for name, (_, id_) in newest.items()}


def _rows(
    place: Output, columns: tuple[str, ...], wanted: Mapping[str, tuple[str, ...]]
) -> Iterator[dict[str, Any]]:
    """Rows of the manifest, with ``wanted`` those alone whose column has one of the values."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from glc_ray.store import manifest

    sets = {column: pa.array(values, pa.string()) for column, values in wanted.items()}
    for batch in manifest.iter_batches(place, columns):
        for column, values in sets.items():
            batch = batch.filter(pc.is_in(batch.column(column), values))
        yield from batch.to_pylist()


if __name__ == "__main__":
    main()
