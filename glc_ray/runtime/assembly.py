"""The end of the graph: segments of a video joined, stored, and its manifest row."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from glc_ray.config import VideoJob
from glc_ray.media.contact_sheet import ContactSheet
from glc_ray.media.decode_plan import DecodePlan
from glc_ray.media.formats import choose
from glc_ray.media.segments import SegmentFile, join
from glc_ray.runtime.decode_stage import PICTURES
from glc_ray.runtime.rows import Row, job_of, ledger_of, record_of, video_id
from glc_ray.store.ledger import Ledger, SegmentEntry
from glc_ray.store.manifest import VideoRecord
from glc_ray.store.output import Output
from glc_ray.store.paths import (
    contact_sheet_path,
    latents_path,
    video_path,
    work_latents_path,
    work_path,
)


class Assembly:
    """Collects the rows of stretches and makes a record of each video that is complete.

    Args:
        output: where videos go.
        decode_plan: says which segments a video has.
        shape: (frames, width, height) of each video's file.
        keep_latents: keep final latents beside the video.
    """

    def __init__(
        self,
        output: str,
        decode_plan: DecodePlan,
        shape: tuple[int, int, int],
        *,
        keep_latents: bool,
    ) -> None:
        self._output = Output(output)
        self._plan = decode_plan
        self._num_frames, self._width, self._height = shape
        self._keep_latents = keep_latents
        self._rows: dict[str, list[Row]] = {}

    def add(self, row: Row) -> VideoRecord | None:
        """The video's record, with its last row; before that None."""
        rows = self._rows.setdefault(row["job"], [])
        rows.append(row)
        if len(rows) < row["count"]:
            return None
        del self._rows[row["job"]]
        job, name = job_of(row), row["name"]
        record = replace(
            record_of(job, name),
            **json.loads(row["timings"]),
            decode_s=sum(one["decode_s"] for one in rows),
            encode_s=sum(one["encode_s"] for one in rows),
            error=next((one["error"] for one in rows if one["error"]), ""),
        )
        if not record.error:
            try:
                record = replace(record, **self._finish(job, name), status="done")
            except Exception as failure:
                record = replace(record, error=f"join: {type(failure).__name__}: {failure}")
        return replace(record, total_s=time.time() - row["started"])

    def _finish(self, job: VideoJob, name: str) -> dict[str, Any]:
        """Join, store, and clear the work folder; what the record says of it."""
        ledger = ledger_of(self._output, job)
        entries = ledger.done()
        missing = [part.index for part in self._plan.segments if part.index not in entries]
        if missing:
            raise RuntimeError(f"segments {missing} are not there; run the same command again")
        encoding = choose(job.pipeline.encode)
        path = video_path(name, encoding.format.suffix)
        with tempfile.TemporaryDirectory(prefix="glc-ray-") as folder:
            segments = [
                self._fetch(ledger, entries[part.index], Path(folder))
                for part in self._plan.segments
            ]
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
            self._contact_sheet(job, ledger, entries).save(sheet)
            put = self._output.put_folder if video.is_dir() else self._output.put
            size_bytes = put(video, path)
            self._output.put(sheet, contact_sheet_path(name))
        if self._keep_latents:
            self._output.move(work_latents_path(video_id(job)), latents_path(name))
        self._output.delete(work_path(video_id(job)))
        return {
            "num_frames": report.num_frames,
            "fps": job.pipeline.video.fps,
            "width": self._width,
            "height": self._height,
            "size_bytes": size_bytes,
            "path": path,
            "contact_sheet": contact_sheet_path(name),
        }

    def _fetch(self, ledger: Ledger, entry: SegmentEntry, folder: Path) -> SegmentFile:
        """A segment as a local file or folder, checked."""
        if not ledger.valid(entry, checksum=True):
            self._output.delete(entry.path)
            raise RuntimeError(
                f"{self._output.uri(entry.path)}: is not what was stored (its checksum differs); "
                "run the same command again, and it is made anew"
            )
        local = self._output.local_copy(entry.path, folder)
        if local.suffix != ".tar":
            return SegmentFile(local, entry.num_frames)
        unpacked = folder / local.stem
        shutil.unpack_archive(local, unpacked, "tar", filter="data")
        return SegmentFile(unpacked, entry.num_frames)

    def _contact_sheet(
        self, job: VideoJob, ledger: Ledger, entries: dict[int, SegmentEntry]
    ) -> ContactSheet:
        sheet = ContactSheet(self._num_frames, title=job.prompt, fps=job.pipeline.video.fps)
        for entry in entries.values():
            stored = self._output.read_bytes(f"{entry.path.rpartition('.')[0]}{PICTURES}")
            pictures = json.loads(stored or b"{}")
            sheet.merge({int(frame): base64.b64decode(png) for frame, png in pictures.items()})
        return sheet
