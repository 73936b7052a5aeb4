"""An output with finished videos that nobody had to render."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from glc_ray.catalog import CatalogJobs
from glc_ray.comparison.design import Cell, Design, design
from glc_ray.comparison.variants import parse_variants
from glc_ray.store.manifest import ManifestWriter
from glc_ray.store.output import Output
from glc_ray.store.paths import video_path
from glc_ray.store.record import VideoRecord
from tests.media.clips import encode, moving_texture

NUM_FRAMES = 33


def planned(
    pipeline: Path,
    *,
    methods: str = "glc,direct",
    prompts: tuple[str, ...] = ("a ball",),
    seeds: tuple[int, ...] = (0,),
) -> tuple[Design, list[Cell]]:
    """A comparison and its videos."""
    plan = design(parse_variants(methods.split(",")), prompts, seeds, (NUM_FRAMES,))
    return plan, plan.cells(CatalogJobs(str(pipeline)))


def finish(
    place: Output,
    folder: Path,
    cells: list[Cell],
    *,
    finished_at: float = 1.0,
    num_frames: int = NUM_FRAMES,
) -> dict[str, np.ndarray]:
    """Write videos as if they were rendered, each of its own brightness; frames by id."""
    place.prepare()
    frames = {}
    with ManifestWriter(place) as writer:
        for number, cell in enumerate(cells):
            shown = moving_texture(num_frames) // (1 + number)
            local = folder / f"{number}.mp4"
            encode([shown], local)
            path = video_path(cell.name)
            place.put(local, path)
            frames[cell.id] = shown
            writer.add(
                VideoRecord(
                    id=cell.id,
                    name=cell.name,
                    prompt=cell.case.prompt,
                    seed=cell.case.seed,
                    specification_hash=cell.id * 4,
                    specification="{}",
                    status="done",
                    num_frames=num_frames,
                    fps=8,
                    width=shown.shape[2],
                    height=shown.shape[1],
                    path=path,
                    num_windows=10 + number,
                    anchor_forwards=1,
                    forward_s=1.5,
                    denoise_s=1.0,
                    finished_at=finished_at,
                )
            )
    return frames
