"""Second stage of the Ray Data graph: stretches of latents to stored, encoded segments."""

from __future__ import annotations

import base64
import json
import logging
import shutil
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError

from glc_ray import telemetry
from glc_ray.backbones.registry import decoder_facts, load_frame_decoder
from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.logs import about, log_file
from glc_ray.media.segments import SegmentReport
from glc_ray.media.stretch import Segment, Stretch, stretches
from glc_ray.media.tiles import SpreadTiles
from glc_ray.media.write import WrittenSegment, write_segments
from glc_ray.runtime.arriving_latents import ArrivingLatents, NoMoreLatentsError, await_arrival
from glc_ray.runtime.denoiser import assigned_device
from glc_ray.runtime.errors import CancelledError
from glc_ray.runtime.failures import in_words
from glc_ray.runtime.file_plans import FilePlan, FilePlans
from glc_ray.runtime.loading import loaded
from glc_ray.runtime.metrics import Telemetry
from glc_ray.runtime.rows import Row, job_of, ledger_of, video_id
from glc_ray.runtime.sick_device import end_process, is_sick
from glc_ray.runtime.tile_pool import BlendingDecoder, await_tile_actors, spread_over
from glc_ray.store.latents import CorruptLatentsError
from glc_ray.store.ledger import Ledger, SegmentEntry
from glc_ray.store.output import Output
from glc_ray.store.paths import work_latents_path
from glc_ray.store.scratch import remove_abandoned_scratch, scratch_folder
from glc_ray.store.storage import StorageError

PICTURES = ".pictures"
"""Suffix of a segment's pictures of the contact sheet: JSON, base64 PNG by frame."""
SCORES = ".scores"
"""Suffix of the scores of a segment's frames: JSON."""

_LOG = logging.getLogger(__name__)
_MAX_LOSSES = 3
"""Of tile actors in one row, before the video fails."""


@dataclass
class _Work:
    """What a row took so far, and where it stands."""

    decode_s: float = 0.0
    encode_s: float = 0.0
    segment: Segment | None = None
    """That is being made."""
    began_at: float = field(default_factory=time.time)
    status: str = "failed"
    """Of the video, if there is an error."""


class DecodeEncodeStage:
    """Row of a stretch -> the same; its segments are stored and in the ledger.

    Latents that are not there yet are waited for, and a row is done when its video's denoising is.
    Frames live in this process alone, one temporal batch at a time. A row that is done again, after
    the process was killed, makes only the segments that are missing. Rows may be of any pipelines
    that share model and decode settings.
    """

    def __init__(
        self,
        pipeline: PipelineSpec,
        output: str,
        board: Any,
        plans: FilePlans,
        tile_actors: list[Any],
    ) -> None:
        """Load the VAE.

        Args:
            pipeline: one of the run's: its model and decode settings are everybody's.
            output: where videos go.
            board: handle of the progress board.
            plans: of the run's files.
            tile_actors: those that decode where tiles are shared.
        """
        torch.set_num_threads(pipeline.decode.threads)
        remove_abandoned_scratch()
        self._plans = plans
        self._tile_actors = tile_actors
        self._tiles: SpreadTiles | None = None
        if plans.shared.kind == "tiles":
            dtype = getattr(torch, pipeline.decode.dtype or pipeline.model.dtype)
            self._tiles = spread_over(tile_actors, plans.shared.tiles, dtype)
            self._decoder: Any = BlendingDecoder(decoder_facts(pipeline.model, pipeline.decode))
        else:
            device = assigned_device()
            self._decoder = loaded(
                lambda: load_frame_decoder(pipeline.model, pipeline.decode, device)
            )
        self._output = Output(output)
        # A folder that only other nodes have must not be found out after hours of denoising.
        self._output.prepare()
        self._board = board
        counted = Telemetry.of(self._output.uri(), pipeline.resources)
        counted.log()
        self._recorder = counted.recorder()
        self._is_sick = False

    def __call__(self, row: Row) -> Row:
        if row["error"]:
            return row
        if self._is_sick:
            # Ray gives the row to the process that takes this one's place.
            end_process()
        job, work, error = job_of(row), _Work(), ""
        for loss in range(_MAX_LOSSES):
            about(video=row["name"], attempt=loss + 1)
            try:
                if loss:
                    await_tile_actors(self._tile_actors)
                self._make(job, row, work)
            except CancelledError as cancelled:
                work.status, error = "cancelled", str(cancelled)
                break
            except RayError as failure:
                # A tile actor was lost, and its caches with it: begin anew behind what is done.
                _LOG.warning("%s: a tile actor was lost: %s", _place(work), failure)
                error = f"{_place(work)}: {in_words(failure)}"
            except NoMoreLatentsError:
                error = ""
                break
            except Exception as failure:
                _LOG.exception("%s failed", _place(work))
                error = f"{_place(work)}: {in_words(failure)}"
                if is_sick(failure):
                    self._leave_device(job, row)
                break
            else:
                error = ""
                break
        return self._answer(job, row, work, error)

    def _leave_device(self, job: VideoJob, row: Row) -> None:
        """End this process, now and with the row still to do, unless the video is what the devices
        fail by: then with the next row."""
        self._is_sick = True
        if ray.get(self._board.device_failed.remote(job.specification_hash, row["name"])):
            end_process()

    def _answer(self, job: VideoJob, row: Row, work: _Work, error: str) -> Row:
        """What becomes of a row, once it is known what became of its video's latents."""
        decoded_at = time.time()
        arrival = await_arrival(self._output, self._board, job, lambda _: False)
        answer = {
            **row,
            "log": log_file() if error else arrival.log,
            "decode_s": work.decode_s,
            "encode_s": work.encode_s,
            "denoised_at": arrival.ended_at,
            "decoding_at": work.began_at,
            "decoded_at": decoded_at,
            "status": work.status if error else arrival.status,
            "error": error or arrival.error,
        }
        if arrival.timings is not None:
            answer["timings"] = json.dumps(asdict(arrival.timings))
        return answer

    def _make(self, job: VideoJob, row: Row, work: _Work) -> None:
        """Make the row's segments that are not there yet."""
        self._check_wanted(row)
        plan = self._plans.of(job.pipeline)
        ledger = ledger_of(self._output, job)
        done = {index for index, entry in ledger.done().items() if ledger.valid(entry)}
        wanted = set(json.loads(row["segments"])) - done
        missing = [part for part in plan.decode.segments if part.index in wanted]
        self._tell(job, row, plan, 0)
        try:
            for stretch in stretches(missing, 1, warmup=plan.decode.warmup):
                self._make_stretch(job, row, plan, stretch, ledger, work)
        except CorruptLatentsError:
            # Out of the way, or the same command would find them again, for ever.
            self._output.delete(work_latents_path(video_id(job)))
            raise

    def _make_stretch(
        self,
        job: VideoJob,
        row: Row,
        plan: FilePlan,
        stretch: Stretch,
        ledger: Ledger,
        work: _Work,
    ) -> None:
        model = self._plans.model
        shape = model.latents_shape(job.pipeline.video.num_frames)
        latents = ArrivingLatents(
            self._output, self._board, job, shape, leading=model.leading_latent_frames
        )
        attempts = ledger.claim_next([segment.index for segment in stretch])
        with scratch_folder() as folder:
            written = write_segments(
                self._decoder,
                latents.as_tensor(),
                stretch,
                Path(folder),
                num_frames=plan.num_frames,
                fps=job.pipeline.video.fps,
                settings=job.pipeline.encode,
                warmup=plan.decode.warmup,
                tiles=self._tiles,
                on_frames=lambda num_frames: self._tell(job, row, plan, num_frames),
            )
            for segment, attempt in zip(stretch, attempts, strict=True):
                self._check_wanted(row)
                work.segment = segment
                waited_s = latents.waited_s
                one = next(written)
                try:
                    self._store(ledger, one, attempt)
                except StorageError:
                    ledger.withdraw(segment.index, attempt)
                    raise
                work.decode_s += one.report.decode_s - (latents.waited_s - waited_s)
                work.encode_s += one.report.encode_s
                self._count(one.report)

    def _check_wanted(self, row: Row) -> None:
        """Raises CancelledError where somebody asked for the video's end."""
        if ray.get(self._board.is_cancelled.remote(row["name"])):
            raise CancelledError("cancelled while it was decoded; what is stored is kept")

    def _tell(self, job: VideoJob, row: Row, plan: FilePlan, num_frames: int) -> None:
        self._board.decoded.remote(job.specification_hash, row["name"], num_frames, plan.num_frames)

    def _count(self, report: SegmentReport) -> None:
        self._recorder.add(telemetry.FRAMES, report.num_frames)
        self._recorder.add(telemetry.DECODE_SECONDS, report.decode_s)
        self._recorder.add(telemetry.ENCODE_SECONDS, report.encode_s)

    def _store(self, ledger: Ledger, written: WrittenSegment, attempt: int) -> None:
        """Store a segment and enter it; a folder of pictures as one tar file."""
        segment, local = written.segment, written.path
        if local.is_dir():
            local = Path(shutil.make_archive(str(written.path), "tar", written.path))
        path = ledger.segment_path(segment.index, attempt, local.suffix)
        self._output.put(local, path)
        pictures = {
            str(frame): base64.b64encode(png).decode() for frame, png in written.pictures.items()
        }
        self._output.put_bytes(
            json.dumps(pictures).encode(), ledger.segment_path(segment.index, attempt, PICTURES)
        )
        self._output.put_bytes(
            written.scores.to_json(), ledger.segment_path(segment.index, attempt, SCORES)
        )
        entry = SegmentEntry.of_file(
            local,
            path,
            first_frame=segment.first_frame,
            num_frames=written.report.num_frames,
            settings_hash=ledger.settings_hash,
        )
        ledger.commit(segment.index, attempt, entry)
        self._recorder.add(telemetry.MOVED_BYTES, local.stat().st_size, kind="segments")
        shutil.rmtree(written.path) if written.path.is_dir() else written.path.unlink()
        local.unlink(missing_ok=True)


def _place(work: _Work) -> str:
    """Where a row failed."""
    if work.segment is None:
        return "decode and encode"
    first = work.segment.first_frame
    return f"decode and encode of frames {first} to {first + work.segment.num_frames - 1}"
