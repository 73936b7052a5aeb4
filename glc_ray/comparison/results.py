"""What a comparison leaves in its output, below ``comparison/``; what is drawn stays."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from itertools import groupby

import pyarrow.parquet as pq

from glc_ray.comparison import page, plot, table
from glc_ray.comparison.design import Case, Cell, Design
from glc_ray.comparison.pictures import Pictures, draw
from glc_ray.comparison.values import Scorer, Tell, long_form
from glc_ray.foreign import from_json
from glc_ray.media.read import UnreadableError
from glc_ray.store import manifest
from glc_ray.store.output import Output
from glc_ray.store.record import VideoRecord

_LOG = logging.getLogger(__name__)

FOLDER = "comparison"
CATALOG = f"{FOLDER}/catalog.jsonl"
PAGE = f"{FOLDER}/README.md"
TABLE = f"{FOLDER}/table.parquet"
VALUES = f"{FOLDER}/values.parquet"
_DRAWN = f"{FOLDER}/drawn.json"


class Results:
    """Of the videos that are finished; a case whose videos are not all there is not drawn.

    Args:
        place: the output.
        design: what is compared.
        cells: its videos.
        anew: draw also what is drawn already.
        tell: is told what is being done.
    """

    def __init__(
        self,
        place: Output,
        design: Design,
        cells: Sequence[Cell],
        *,
        anew: bool = False,
        tell: Tell = lambda _: None,
    ) -> None:
        self._place, self._design, self._cells, self._tell = place, design, cells, tell
        wanted = {cell.id for cell in cells}
        self._records = {
            record.id: record
            for record in manifest.read(place)
            if record.id in wanted and record.status == "done"
        }
        self._anew, self._drawn = anew, self._known_pictures()

    def rows(self, scorer: Scorer) -> list[table.Row]:
        """Score what was not scored before, store the scores, and put them together."""
        scores = scorer.scores(self._place, set(self._records), self._tell)
        values = long_form(self._cells, self._records, scores)
        with self._place.writing(VALUES) as local:
            pq.write_table(values, local)
        names = [variant.name for variant in self._design.variants]
        return table.rows(values, self._design.lengths, names)

    def draw(self, *, columns: int, cases: int | None) -> list[Pictures]:
        """Draw the cases that are not drawn yet; one with a video that cannot be read is left out.

        Args:
            columns: instants on a strip.
            cases: how many of each length, from the first on; None is all.
        """
        made = []
        by_case = [
            (case, list(cells)) for case, cells in groupby(self._cells, lambda cell: cell.case)
        ]
        counts: dict[int, int] = {}
        for case, cells in by_case:
            counts[case.num_frames] = counts.get(case.num_frames, 0) + 1
            if cases is not None and counts[case.num_frames] > cases:
                continue
            records = [self._records[cell.id] for cell in cells if cell.id in self._records]
            if len(records) < len(cells):
                continue
            try:
                made.append(self._draw(case, cells, records, columns))
            except UnreadableError as error:
                _LOG.warning("%s: not drawn: %s", case.slug, error)
        return made

    def store(self, rows: Sequence[table.Row], pictures: Sequence[Pictures]) -> None:
        """Write the tables, the figures and the page."""
        whole = table.to_arrow(rows)
        with self._place.writing(TABLE) as local:
            pq.write_table(whole, local)
        self._put(f"{FOLDER}/table.csv", table.to_csv(whole))
        plots = []
        for num_frames in self._design.lengths:
            plots.append(f"differences-{num_frames}.svg")
            of = table.of_length(rows, num_frames)
            if of and len(self._design.variants) > 1:
                self._put(f"{FOLDER}/{plots[-1]}", plot.svg(of, f"{num_frames} frames"))
        self._put(PAGE, page.markdown(self._design, rows, plots, pictures, up="../"))

    def _draw(
        self, case: Case, cells: Sequence[Cell], records: Sequence[VideoRecord], columns: int
    ) -> Pictures:
        made = Pictures(
            case, f"{FOLDER}/videos/{case.slug}.mp4", f"{FOLDER}/strips/{case.slug}.png"
        )
        shown = [
            *(cell.variant.name for cell in cells),
            *(cell.id for cell in cells),
            *(str(record.finished_at) for record in records),
            str(columns),
        ]
        paths = (made.video, made.strips)
        is_there = all(self._place.size(path) is not None for path in paths)
        if self._anew or not is_there or self._drawn.get(case.slug) != shown:
            self._tell(f"{case.slug}: drawing")
            labels = [cell.variant.name for cell in cells]
            draw(self._place, made, labels, records, columns=columns)
            self._drawn[case.slug] = shown
            self._put(_DRAWN, json.dumps(self._drawn, indent=1))
        return made

    def _known_pictures(self) -> dict[str, list[str]]:
        """What each case's pictures show: names, ids, when each was rendered, columns."""
        try:
            known = from_json(self._place.read_bytes(_DRAWN) or b"{}")
        except ValueError:
            return {}
        return known if isinstance(known, dict) else {}

    def _put(self, path: str, text: str) -> None:
        self._place.put_bytes(text.encode(), path)
