"""What shows the scores of an output's videos: its table and its report page."""

from __future__ import annotations

from collections.abc import Mapping

from glc_ray.evaluation.known import KnownScores
from glc_ray.evaluation.table import Row, write_table
from glc_ray.evaluation.videos import output_videos
from glc_ray.overview import run_state
from glc_ray.report_page.report import Report
from glc_ray.store import manifest
from glc_ray.store.output import Output
from glc_ray.store.paths import EVALUATION


def show_scores(
    place: Output, known: KnownScores | None = None, *, report: bool = True
) -> list[Row]:
    """Bring the table and the page up to date with what is scored, by whomever; returns all scores.

    Args:
        place: the output.
        known: its scores, as far as the caller has read them.
        report: also the page.

    Raises:
        UserError, StorageError: the output cannot be read or written.
    """
    if known is None:
        known = KnownScores(list(output_videos(place)), place)
    else:
        known.renew()
    rows = known.rows()
    with place.writing(EVALUATION) as path:
        write_table(rows, path)
    if report:
        _renew_page(place, known.digests())
    return rows


def _renew_page(place: Output, evaluations: Mapping[str, str]) -> None:
    """Show on the page the evaluations, digests by id, that it does not have."""
    page = Report(place)
    page.sync()
    for record in manifest.read(place):
        if record.id in evaluations and not page.shows(record, evaluations[record.id]):
            page.add(record)
    # Not before: a run may have ended meanwhile.
    run, state, _ = run_state(place)
    page.write(run, state)
