"""Outputs as a render leaves them: made by the code that a render calls, without one."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from glc_ray.config import VideoJob
from glc_ray.evaluation.video_scores import scores_file
from glc_ray.job import build_job
from glc_ray.media.contact_sheet import ContactSheet
from glc_ray.media.frame_scores import FrameScores, join_scores
from glc_ray.pipeline_file import load_pipeline
from glc_ray.store.manifest import ManifestWriter, VideoRecord
from glc_ray.store.output import Output
from glc_ray.store.paths import contact_sheet_path, preview_path, scores_path, video_path
from tests.media.clips import encode, moving_texture

BEGAN = 1_780_000_000.0


def job(prompt: str = "a red ball rolls over the sea", seed: int = 0, **options: Any) -> VideoJob:
    return build_job(load_pipeline("toyworld", list(options.items())), prompt, seed)


def record(name: str, of: VideoJob, at: float = 0.0, **values: Any) -> VideoRecord:
    """A row of a video that took a minute, ``at`` seconds after the run began."""
    begun = BEGAN + at
    return replace(
        VideoRecord(
            id=of.specification_hash[:16],
            name=name,
            prompt=of.prompt,
            seed=of.seed,
            specification_hash=of.specification_hash,
            specification=of.model_dump_json(),
            status="done",
            versions=json.dumps({"glc-ray": "0", "torch": "2"}),
            denoise_s=40.0,
            fuse_s=4.0,
            update_s=6.0,
            decode_s=4.0,
            encode_s=2.5,
            total_s=60.0,
            num_windows=445,
            queued_at=BEGAN,
            started_at=begun,
            denoised_at=begun + 52,
            decoding_at=begun + 52.5,
            decoded_at=begun + 58.5,
            finished_at=begun + 60,
        ),
        **values,
    )


def store_video(
    place: Output, name: str, of: VideoJob, frames: np.ndarray | None = None, at: float = 0.0
) -> VideoRecord:
    """Store the files of a finished video; its row."""
    frames = moving_texture(33) if frames is None else frames
    fps = 8
    video = Path(place.uri(video_path(name)))
    encode([frames], video, fps=fps)
    sheet = ContactSheet(len(frames), title=of.prompt, fps=fps)
    sheet.add(frames)
    sheet.save(Path(place.uri(contact_sheet_path(name))))
    place.put_bytes(sheet.preview(), preview_path(name))
    watcher = FrameScores()
    for _ in watcher.watch([frames]):
        pass
    scores = scores_file(
        join_scores([watcher.scores()], 25),
        fps=fps,
        anchor_frames=25,
        borders={frame: 1.0 if frame % 12 else 0.4 for frame in range(9, len(frames), 8)},
    )
    place.put_bytes(scores.to_json(), scores_path(name))
    return record(
        name,
        of,
        at,
        num_frames=len(frames),
        fps=float(fps),
        width=frames.shape[2],
        height=frames.shape[1],
        size_bytes=video.stat().st_size,
        path=video_path(name),
        contact_sheet=contact_sheet_path(name),
        preview=preview_path(name),
        scores=scores_path(name),
    )


def many(count: int) -> list[VideoRecord]:
    """Rows of videos without files: every tenth has failed, every hundredth is invalid."""
    # A job is validated once; the others differ in what a catalog's rows differ in.
    one = job()
    dice = random.Random(7)  # noqa: S311
    text = one.model_dump_json()
    rows = []
    for number in range(count):
        prompt = f"a {dice.choice(['red', 'blue', 'pink'])} ball rolls, take {number}"
        key = f"{dice.getrandbits(64):016x}"
        state = "invalid" if number % 100 == 9 else "failed" if number % 10 == 3 else "done"
        rows.append(
            replace(
                record(f"take-{number:05d}", one, 7.0 * number),
                id=key,
                prompt=prompt,
                seed=number,
                specification=text.replace(json.dumps(one.prompt), json.dumps(prompt), 1),
                status=state,
                error="" if state == "done" else f"step {number % 25}: out of memory",
                catalog_line=number + 1,
                total_s=60 + 30 * math.sin(number),
                num_frames=145 if state == "done" else 0,
                fps=8.0,
            )
        )
    return rows


def store_rows(place: Output, *records: VideoRecord) -> None:
    with ManifestWriter(place) as writer:
        for one in records:
            writer.add(one)
