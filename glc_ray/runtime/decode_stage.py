"""Second stage of the Ray Data graph: stretches of stored latents to stored, encoded segments."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from ray.exceptions import RayError

from glc_ray.backbones.registry import decoder_facts, facts, load_frame_decoder
from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.job import file_shape
from glc_ray.media.decode_plan import DecodePlan
from glc_ray.media.stretch import stretches
from glc_ray.media.tiles import SpreadTiles
from glc_ray.media.write import WrittenSegment, write_segments
from glc_ray.runtime.denoiser import assigned_device
from glc_ray.runtime.rows import Row, job_of, ledger_of, video_id
from glc_ray.runtime.stored_latents import StoredLatents
from glc_ray.runtime.tile_pool import BlendingDecoder, spread_over
from glc_ray.store.ledger import Ledger, SegmentEntry
from glc_ray.store.output import Output
from glc_ray.store.paths import work_latents_path

PICTURES = ".pictures"
"""Suffix of a segment's pictures of the contact sheet: JSON, base64 PNG by frame."""

_MAX_FAILURES = 3
"""Of tile actors, before the video fails."""


class DecodeEncodeStage:
    """Row of a stretch -> the same; its segments are stored and in the ledger.

    Frames live in this process alone, one temporal batch at a time. A row that is done again, after
    the process was killed, makes only the segments that are missing.
    """

    def __init__(
        self,
        pipeline: PipelineSpec,
        output: str,
        board: Any,
        decode_plan: DecodePlan,
        tile_actors: list[Any],
    ) -> None:
        torch.set_num_threads(pipeline.decode.threads)
        self._tiles: SpreadTiles | None = None
        if decode_plan.kind == "tiles":
            dtype = getattr(torch, pipeline.decode.dtype or pipeline.model.dtype)
            self._tiles = spread_over(tile_actors, decode_plan, dtype)
            self._decoder: Any = BlendingDecoder(decoder_facts(pipeline.model, pipeline.decode))
        else:
            self._decoder = load_frame_decoder(pipeline.model, pipeline.decode, assigned_device())
        model = facts(pipeline.model)
        self._leading = model.leading_latent_frames
        self._num_frames, *_ = file_shape(pipeline, model)
        self._plan = decode_plan
        self._output = Output(output)
        # A folder that only other nodes have must not be found out after hours of denoising.
        self._output.prepare()
        self._board = board

    def __call__(self, row: Row) -> Row:
        if row["error"]:
            return row
        wanted = set(json.loads(row["segments"]))
        times = {"decode_s": 0.0, "encode_s": 0.0}
        for failures in range(1, _MAX_FAILURES + 1):
            try:
                self._make(job_of(row), row, wanted, times)
                return {**row, **times}
            except RayError as failure:
                # A tile actor was lost, and its caches with it: begin anew behind what is done.
                error = f"{type(failure).__name__}: {failure}"
                if failures == _MAX_FAILURES:
                    return {**row, "error": f"decode and encode: {error}"}
            except Exception as failure:
                error = f"{type(failure).__name__}: {failure}"
                return {**row, "error": f"decode and encode: {error}"}
        raise AssertionError("not reached")

    def _make(self, job: VideoJob, row: Row, wanted: set[int], times: dict[str, float]) -> None:
        """Make the wanted segments that are not there yet."""
        ledger = ledger_of(self._output, job)
        path = work_latents_path(video_id(job))
        done = {index for index, entry in ledger.done().items() if ledger.valid(entry)}
        missing = [part for part in self._plan.segments if part.index in wanted - done]

        def tell(num_frames: int) -> None:
            self._board.decoded.remote(
                job.specification_hash, row["name"], num_frames, self._num_frames
            )

        tell(0)
        latents = StoredLatents(self._output, path, leading=self._leading).as_tensor()
        for stretch in stretches(missing, 1, warmup=self._plan.warmup):
            attempts = {part.index: ledger.next_attempt(part.index) for part in stretch}
            for index, attempt in attempts.items():
                ledger.claim(index, attempt)
            with tempfile.TemporaryDirectory(prefix="glc-ray-") as folder:
                for written in write_segments(
                    self._decoder,
                    latents,
                    stretch,
                    Path(folder),
                    num_frames=self._num_frames,
                    fps=job.pipeline.video.fps,
                    settings=job.pipeline.encode,
                    warmup=self._plan.warmup,
                    tiles=self._tiles,
                    on_frames=tell,
                ):
                    self._store(ledger, written, attempts[written.segment.index])
                    times["decode_s"] += written.report.decode_s
                    times["encode_s"] += written.report.encode_s

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
        entry = SegmentEntry.of_file(
            local,
            path,
            first_frame=segment.first_frame,
            num_frames=written.report.num_frames,
            settings_hash=ledger.settings_hash,
        )
        ledger.commit(segment.index, attempt, entry)
        shutil.rmtree(written.path) if written.path.is_dir() else written.path.unlink()
        local.unlink(missing_ok=True)
