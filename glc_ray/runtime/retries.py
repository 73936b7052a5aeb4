"""A run of a few chosen videos, of whatever pipelines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from glc_ray.catalog import CatalogJob
from glc_ray.names import name_key
from glc_ray.runtime.pipeline import Listed
from glc_ray.runtime.rows import row_of
from glc_ray.runtime.run import Group, Run
from glc_ray.store.outdated import Asked
from glc_ray.store.output import Output
from glc_ray.store.paths import REPORT_PAGE


def render_jobs(
    place: Output,
    jobs: Iterable[CatalogJob],
    *,
    address: str | None,
    keep_latents: bool,
    stops: bool,
) -> Counter[str]:
    """Render some videos of any pipelines; returns how many ended, by status.

    Raises:
        UserError: another run has the output, or the cluster has no room.
        StoppedError: a signal asked for the end.
    """
    chosen: dict[str, list[CatalogJob]] = {}
    for job in jobs:
        chosen.setdefault(job.group, []).append(job)
    groups = []
    for some in chosen.values():
        some.sort(key=lambda one: -one.priority)
        rows = (
            row_of(one.job, one.name, priority=one.priority, line=one.line, catalog=one.catalog)
            for one in some
        )
        groups.append(Group(some[0].job.pipeline, Listed(tuple(rows))))
    # A report that is there must not go on to show what has been rendered since as failed.
    report = place.size(REPORT_PAGE) is not None
    with Run(place, keep_latents=keep_latents, stops=stops, report=report) as run:
        run.expect(sum(group.source.num_rows for group in groups))
        run.find_outdated(_asked(groups))
        for _ in run.render(groups, address):
            pass
        return run.ended


def _asked(groups: Iterable[Group]) -> Asked:
    rows = [row for group in groups for row in group.source.rows()]
    ids = np.array([int(row["id"], 16) for row in rows], np.uint64)
    names = np.array([name_key(row["name"]) for row in rows], np.uint64)
    return Asked(None, np.sort(ids), np.sort(names))
