"""Second stage of the Ray Data graph: final latents to a stored video and its manifest row."""

from __future__ import annotations

import json
import tempfile
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glc_ray import __version__
from glc_ray.backbones.registry import facts, load_frame_decoder
from glc_ray.config import PipelineSpec, VideoJob
from glc_ray.media.write import write_video
from glc_ray.runtime.denoise_stage import Row
from glc_ray.runtime.denoiser import assigned_device
from glc_ray.runtime.messages import VideoProgress
from glc_ray.store.manifest import VideoRecord
from glc_ray.store.output import Output, contact_sheet_path, video_path

_VERSIONED = ("torch", "diffusers", "transformers", "ray", "numpy")


class DecodeEncodeStage:
    """Row with ``latents`` -> the manifest row; the video and its contact sheet are stored.

    Frames live in this process alone, one temporal batch at a time.
    """

    def __init__(self, pipeline: PipelineSpec, output: str, board: Any) -> None:
        torch.set_num_threads(pipeline.decode.threads)
        self._decoder = load_frame_decoder(pipeline.model, pipeline.decode, assigned_device())
        self._leading = facts(pipeline.model).leading_latent_frames
        self._output = Output(output)
        # A folder that only other nodes have must not be found out after hours of denoising.
        self._output.prepare()
        self._board = board

    def __call__(self, row: Row) -> Row:
        job = VideoJob.model_validate_json(row["job"])
        name = row["name"]
        record = replace(record_of(job, name), **json.loads(row["timings"]), error=row["error"])
        if not record.error:
            try:
                record = replace(record, **self._write(job, name, row["latents"]), status="done")
            except Exception as failure:
                why = f"decode and encode: {type(failure).__name__}: {failure}"
                record = replace(record, error=why)
        self._tell(job, VideoProgress(name, record.status))
        return asdict(replace(record, total_s=time.time() - row["started"]))

    def _write(self, job: VideoJob, name: str, latents_FCHW: np.ndarray) -> dict[str, Any]:
        num_frames = job.pipeline.video.num_frames

        def on_frames(done: int) -> None:
            progress = VideoProgress(name, "decoding", frames_done=done, num_frames=num_frames)
            self._tell(job, progress)

        with tempfile.TemporaryDirectory(prefix="glc-ray-") as folder:
            video, sheet = Path(folder) / "video.mp4", Path(folder) / "sheet.png"
            report = write_video(
                self._decoder,
                torch.tensor(latents_FCHW[self._leading :])[None],
                video,
                sheet,
                num_frames=num_frames,
                fps=job.pipeline.video.fps,
                prompt=job.prompt,
                settings=job.pipeline.encode,
                metadata={
                    "title": job.prompt,
                    "comment": f"glc-ray seed={job.seed} specification={job.specification_hash}",
                },
                on_frames=on_frames,
            )
            size_bytes = self._output.put(video, video_path(name))
            self._output.put(sheet, contact_sheet_path(name))
        return {
            "num_frames": report.num_frames,
            "fps": job.pipeline.video.fps,
            "width": report.width,
            "height": report.height,
            "size_bytes": size_bytes,
            "path": video_path(name),
            "contact_sheet": contact_sheet_path(name),
            "decode_s": report.decode_s,
            "encode_s": report.encode_s,
        }

    def _tell(self, job: VideoJob, progress: VideoProgress) -> None:
        self._board.report.remote(job.specification_hash, progress)


def record_of(job: VideoJob, name: str) -> VideoRecord:
    """The manifest row of a video that is not done (yet)."""
    return VideoRecord(
        id=job.specification_hash[:16],
        name=name,
        prompt=job.prompt,
        seed=job.seed,
        specification_hash=job.specification_hash,
        specification=job.model_dump_json(),
        status="failed",
        versions=json.dumps(versions()),
    )


def failed_record(job: VideoJob, name: str, error: str) -> VideoRecord:
    """The manifest row of a video that the cluster lost."""
    return replace(record_of(job, name), error=error)


def versions() -> dict[str, str]:
    """Versions of what computes a video."""
    return {"glc-ray": __version__} | {name: version(name) for name in _VERSIONED}
