"""The end of the graph: segments of a video joined, stored, and its manifest row."""

from __future__ import annotations

import base64
import json
import logging
import re
import shutil
import tarfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from glc_ray.config import VideoJob
from glc_ray.evaluation.video_scores import scores_file
from glc_ray.foreign import from_json
from glc_ray.logs import log_file
from glc_ray.media.contact_sheet import ContactSheet
from glc_ray.media.formats import choose
from glc_ray.media.frame_scores import SegmentScores, join_scores
from glc_ray.media.segments import SegmentFile, join
from glc_ray.runtime.decode_stage import PICTURES, SCORES
from glc_ray.runtime.failures import in_words
from glc_ray.runtime.file_plans import FilePlan, FilePlans
from glc_ray.runtime.rows import Row, job_of, ledger_of, record_of, video_id
from glc_ray.runtime.stored_latents import are_kept, are_stored
from glc_ray.store.ledger import Ledger, SegmentEntry
from glc_ray.store.manifest import SCHEMA, VideoRecord
from glc_ray.store.output import Output
from glc_ray.store.paths import (
    contact_sheet_path,
    latents_path,
    preview_path,
    scores_path,
    video_path,
    work_latents_path,
)
from glc_ray.store.scratch import scratch_folder
from glc_ray.store.storage import StorageError
from glc_ray.window_borders import window_borders

_LOG = logging.getLogger(__name__)
_FRAME = re.compile(r"frame_\d{6,}\.\w+")


class Assembly:
    """Collects the rows of stretches and makes a record of each video that is complete.

    Args:
        output: where videos go.
        plans: of the run's files.
        keep_latents: keep final latents beside the video.
    """

    def __init__(self, output: str, plans: FilePlans, *, keep_latents: bool) -> None:
        self._output = Output(output)
        self._plans = plans
        self._keep_latents = keep_latents
        self._rows: dict[str, list[Row]] = {}

    def add(self, row: Row) -> list[Row] | None:
        """All rows of the video, with its last one; before that None."""
        rows = self._rows.setdefault(row["job"], [])
        rows.append(row)
        return self._rows.pop(row["job"]) if len(rows) == row["count"] else None

    def record(self, rows: list[Row]) -> VideoRecord:
        """The record of a video that is complete, when its file is stored; in any thread."""
        row = rows[-1]
        job, name = job_of(row), row["name"]
        timings = json.loads(row["timings"])
        record = replace(
            record_of(row),
            # Not all of them are columns.
            **{column: timings[column] for column in timings.keys() & SCHEMA.names},
            decode_s=sum(one["decode_s"] for one in rows),
            encode_s=sum(one["encode_s"] for one in rows),
            started_at=row["started"],
            denoised_at=min(one["denoised_at"] for one in rows),
            decoding_at=min(one["decoding_at"] for one in rows),
            decoded_at=max(one["decoded_at"] for one in rows),
        )
        failed = next((one for one in rows if one["error"]), None)
        if failed is not None:
            told = {key: failed[key] for key in ("status", "error", "log")}
            record = replace(record, **told)
        else:
            try:
                made, join_s = self._finish(job, name, self._plans.of(job.pipeline))
                record = replace(record, **made, encode_s=record.encode_s + join_s, status="done")
            except Exception as failure:
                _LOG.exception("join failed", extra={"video": name})
                error = f"join: {in_words(failure)}"
                record = replace(record, error=error, log=log_file())
        now = time.time()
        return replace(record, total_s=now - row["started"], finished_at=now)

    def _finish(self, job: VideoJob, name: str, plan: FilePlan) -> tuple[dict[str, Any], float]:
        """Join and store; what the record says of it, and the seconds of the join.

        The work folder stays for whoever stores the record: without that, another run makes the
        video again from there.
        """
        ledger = ledger_of(self._output, job)
        entries = ledger.done()
        indices = [segment.index for segment in plan.decode.segments]
        missing = [index for index in indices if index not in entries]
        if missing:
            raise StorageError(f"{self._output.uri()}: segments {missing} are not there any more")
        encoding = choose(job.pipeline.encode)
        path = video_path(name, encoding.format.suffix)
        with scratch_folder() as folder:
            segments = [self._fetch(ledger, entries[index], Path(folder)) for index in indices]
            video = Path(folder) / f"video{encoding.format.suffix}"
            report = join(
                segments,
                video,
                fps=job.pipeline.video.fps,
                settings=job.pipeline.encode,
                metadata={
                    "title": job.prompt,
                    "comment": f"glc-ray seed={job.seed} specification={job.specification_hash}",
                },
            )
            sheet = Path(folder) / "sheet.png"
            contact_sheet = self._contact_sheet(job, plan, entries)
            contact_sheet.save(sheet)
            put = self._output.put_folder if video.is_dir() else self._output.put
            size_bytes = put(video, path)
            self._output.put(sheet, contact_sheet_path(name))
        self._output.put_bytes(contact_sheet.preview(), preview_path(name))
        scores = self._scores(job, name, [entries[index] for index in indices])
        if self._keep_latents and (
            are_stored(self._output, job) or not are_kept(self._output, job, name)
        ):
            self._output.move(work_latents_path(video_id(job)), latents_path(name))
        made = {
            "num_frames": report.num_frames,
            "fps": job.pipeline.video.fps,
            "width": plan.width,
            "height": plan.height,
            "size_bytes": size_bytes,
            "path": path,
            "contact_sheet": contact_sheet_path(name),
            "preview": preview_path(name),
            "scores": scores,
        }
        return made, report.join_s

    def _fetch(self, ledger: Ledger, entry: SegmentEntry, folder: Path) -> SegmentFile:
        """A segment as a local file or folder, checked."""
        # A remote one is hashed where it is needed anyway: it is downloaded once.
        local = self._output.local_copy(entry.path, folder) if ledger.valid(entry) else None
        if local is None or not entry.is_of(local):
            self._output.delete(entry.path)
            raise StorageError(
                f"{self._output.uri(entry.path)}: is not what was stored (its checksum differs), "
                "and is removed"
            )
        if local.suffix != ".tar":
            return SegmentFile(local, entry.num_frames)
        return SegmentFile(_unpacked(local, folder / local.stem), entry.num_frames)

    def _scores(self, job: VideoJob, name: str, entries: list[SegmentEntry]) -> str:
        """Store the scores of all frames; their path, empty where a segment has none: an earlier
        version made it."""
        segments = []
        for entry in entries:
            try:
                segments.append(SegmentScores.from_json(self._beside(entry, SCORES)))
            except ValueError:
                return ""
        borders = window_borders(job, self._plans.model)
        anchor_frames = self._plans.model.num_frames(self._plans.model.window_size)
        joined = join_scores(segments, anchor_frames)
        file = scores_file(
            joined, fps=job.pipeline.video.fps, anchor_frames=anchor_frames, borders=borders
        )
        self._output.put_bytes(file.to_json(), scores_path(name))
        return scores_path(name)

    def _beside(self, entry: SegmentEntry, suffix: str) -> bytes:
        """What was stored beside a segment."""
        return self._output.read_bytes(f"{entry.path.rpartition('.')[0]}{suffix}") or b"{}"

    def _contact_sheet(
        self, job: VideoJob, plan: FilePlan, entries: dict[int, SegmentEntry]
    ) -> ContactSheet:
        sheet = ContactSheet(plan.num_frames, title=job.prompt, fps=job.pipeline.video.fps)
        for entry in entries.values():
            pictures = from_json(self._beside(entry, PICTURES))
            sheet.merge({int(frame): base64.b64decode(png) for frame, png in pictures.items()})
        return sheet


def _unpacked(archive: Path, folder: Path) -> Path:
    """The frames of a segment that is a tar file; nothing of it is written but plain files, into
    ``folder``, whatever their paths say (tarfile's own filters need Python 3.10.12)."""
    folder.mkdir()
    # Neither compressed nor with holes: what is unpacked is no larger than the archive.
    with tarfile.open(archive, "r:") as tar:
        for member in tar:
            name = Path(member.name).name
            is_frame = _FRAME.fullmatch(name) and member.isfile() and not member.issparse()
            source = tar.extractfile(member) if is_frame else None
            if source is not None:
                with (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    return folder
