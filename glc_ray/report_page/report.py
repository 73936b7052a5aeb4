"""Keeps the report of an output up to date, by what has changed alone."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, fields

import pyarrow as pa
import pyarrow.compute as pc

from glc_ray import __version__
from glc_ray.evaluation.evaluation_file import read_evaluation
from glc_ray.evaluation.video_scores import ScoresFile
from glc_ray.foreign import from_json
from glc_ray.report_page.data_files import DataFiles, ForeignDataError
from glc_ray.report_page.page import page
from glc_ray.report_page.rows import Json, page_id, page_row
from glc_ray.store import manifest
from glc_ray.store.output import Output
from glc_ray.store.paths import REPORT_PAGE, preview_sheet_path
from glc_ray.store.record import OUTDATED, VideoRecord
from glc_ray.store.run_status import RunStatus
from glc_ray.store.storage import OutsideError

_TRIES = 10
"""At storing what no other process has changed in between."""
_COLUMNS = [field.name for field in fields(VideoRecord)]


class Report:
    """The page of an output and its data. For one thread; ``add`` may be called from others.

    Args:
        output: what it is of, and where it goes.

    Raises:
        UserError, StorageError: as ``manifest.read``, or the report cannot be stored, or others
            write it all the time.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._files = DataFiles(output)
        self._added: deque[VideoRecord] = deque()

    def sync(self, *, anew: bool = False) -> None:
        """Take over from the manifest what the report does not have.

        Args:
            anew: make everything again.
        """
        self._output.put_bytes(page(self._title()), REPORT_PAGE)
        try:
            if anew:
                raise ForeignDataError
            self._files.load()
            missing = self._missing()
        except ForeignDataError:
            self._files.clear()
            missing = None
        if missing is not None and not missing:
            return
        for batch in manifest.iter_batches(self._output, _COLUMNS):
            if missing is not None:
                wanted = pc.is_in(batch.column("id"), pa.array(sorted(missing), pa.string()))
                batch = batch.filter(wanted)
            for values in batch.to_pylist():
                self._put(VideoRecord(**values))

    def add(self, record: VideoRecord) -> None:
        """A video came to its end, or a row is outdated; the next ``write`` shows it."""
        self._added.append(record)

    def shows(self, record: VideoRecord, evaluation: str) -> bool:
        """Whether the page has this evaluation of a video, by its digest."""
        return self._files.evaluation(page_id(record.id)) == evaluation

    def write(
        self, run: RunStatus | None, state: str | None = None, *, within_s: float | None = None
    ) -> bool:
        """Store what was added, and where the run stands, beside what other processes stored.

        Args:
            run: what it says of itself; None: there was none.
            state: of the run, where somebody knows better: ``died``.
            within_s: seconds after which what is left of the videos waits for the next time; at
                least one is taken, and what others have stored is read before.

        Returns:
            Whether nothing is left.
        """
        for attempt in range(_TRIES):
            taken: list[VideoRecord] = []
            try:
                if attempt:
                    self.sync()
                self._take(taken, within_s)
                self._files.flush(self._facts(run, state))
                return not self._added
            except ForeignDataError:
                # Another process has stored something: an evaluation, or a run.
                self._added.extendleft(reversed(taken))
        raise ForeignDataError

    def _take(self, taken: list[VideoRecord], within_s: float | None) -> None:
        start = time.monotonic()
        while self._added:
            taken.append(self._added.popleft())
            if not self._files.has_newer(page_id(taken[-1].id), taken[-1].finished_at):
                self._put(taken[-1])
            if within_s is not None and time.monotonic() - start > within_s:
                return

    def _missing(self) -> set[str]:
        """Ids of the videos that the report does not have as they are.

        Raises:
            ForeignDataError: it has videos that the manifest does not have.
        """
        missing: set[str] = set()
        known: set[str] = set()
        for batch in manifest.iter_batches(self._output, ("id", "finished_at")):
            for row in batch.to_pylist():
                video = page_id(row["id"])
                known.add(video)
                if not self._files.has(video, row["finished_at"]):
                    missing.add(row["id"])
        if self._files.has_others(known):
            raise ForeignDataError
        return missing

    def _put(self, record: VideoRecord) -> None:
        if record.status == OUTDATED:
            self._files.drop(page_id(record.id))
            return
        evaluation = None
        if record.status == "done":
            evaluation = read_evaluation(self._output, record.name, record.finished_at)
        sheet = self._preview_sheet(record)
        self._files.put(page_row(record, self._scores(record), sheet, evaluation))

    def _scores(self, record: VideoRecord) -> ScoresFile | None:
        if not record.scores:
            return None
        try:
            return ScoresFile.from_json(self._output.read_bytes(record.scores) or b"")
        except (ValueError, OutsideError):
            return None

    def _preview_sheet(self, record: VideoRecord) -> str:
        """Its path, where previews were asked for and there is one."""
        try:
            every = from_json(record.specification)["pipeline"]["preview"]["every"]
        except (ValueError, KeyError, TypeError):
            return ""
        path = preview_sheet_path(record.name)
        return path if every and self._output.size(path) is not None else ""

    def _title(self) -> str:
        return self._output.uri().rstrip("/").rpartition("/")[2] or self._output.uri()

    def _facts(self, run: RunStatus | None, state: str | None) -> Json:
        facts: Json = {
            "output": self._output.uri(),
            "version": __version__,
            "written_at": time.time(),
        }
        if run is not None:
            facts["run"] = {**asdict(run), "num_queued": run.num_queued}
            facts["run"]["state"] = state or run.state
        return facts
