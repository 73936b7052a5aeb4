"""Scores and cost of single videos, which comparisons are made of."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from glc_ray.comparison.design import Cell
from glc_ray.evaluation.toyworld import looks, motion
from glc_ray.evaluation.toyworld.rules import long_video_scores
from glc_ray.evaluation.video_scores import ScoresFile
from glc_ray.media.read import read_frames
from glc_ray.store.output import Output
from glc_ray.store.record import VideoRecord


@dataclass(frozen=True)
class Score:
    """What a number says."""

    name: str
    better: int
    """1 where more of it is better, -1 where less is, 0 where it is neither."""
    meaning: str
    digits: int = 3


SCORES = {
    score.name: score
    for score in (
        Score("present", 1, "share of frames that show an object"),
        Score("colour", 1, "share of frames whose object has the prompt's colour"),
        Score("shape", 1, "share of frames whose object has the prompt's shape"),
        Score("motion", 1, "share of spans of 25 frames that follow the prompt's law of motion"),
        Score("longest_step", -1, "largest jump of the object from frame to frame, pixels", 1),
        Score("background_change", -1, "largest change of the landscape, RGB distance", 1),
        Score("flickering", 1, "(255 − mean change)/255 between frames: a still video has 1", 4),
        Score("seam", -1, "change at borders that every step has, against elsewhere", 2),
        Score("drift", -1, "how far the last native clip is from the first, 0 to 1"),
        Score("forwards", 0, "model forwards of a window, anchors' included", 0),
        Score("forward_s", -1, "seconds of model forwards, summed over workers", 1),
        Score("denoise_s", -1, "seconds of waiting for them", 1),
    )
}
"""In the order of tables; cost last."""
COST = ("forwards", "forward_s", "denoise_s")

VALUES_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("name", pa.string()),
        ("method", pa.string()),
        ("prompt", pa.string()),
        ("seed", pa.int64()),
        ("num_frames", pa.int64()),
        ("score", pa.string()),
        ("value", pa.float64()),
    ]
)
"""Of the long form: a row a video and score."""

_SENTENCE = re.compile(r"an? (\w+) (\w+) (\w+) over the (\w+) at (\w+)")


class Values:
    """Values by video id and score. Videos that it knows are not read again.

    Args:
        place: the output that has the videos.
        path: of the values, below it.
        anew: forget what was stored.
    """

    def __init__(self, place: Output, path: str, *, anew: bool = False) -> None:
        self._place, self._path = place, path
        self._known = {} if anew else _stored(place, path)

    def of(self, record: VideoRecord) -> Mapping[str, float]:
        """Scores of a finished video that are known of it, by name, and what it cost.

        Raises:
            StorageError, FFmpegError: it cannot be read.
        """
        if record.id not in self._known:
            scores = {**_of_frames(self._place, record), **_of_file(self._place, record)}
            self._known[record.id] = {
                name: value for name, value in scores.items() if math.isfinite(value)
            }
        return self._known[record.id] | _cost(record)

    def store(self, cells: Iterable[Cell], records: Mapping[str, VideoRecord]) -> pa.Table:
        """Write the long form of the finished videos of a comparison, as Parquet; returns it."""
        columns: dict[str, list[object]] = {name: [] for name in VALUES_SCHEMA.names}
        for cell in cells:
            if cell.id not in records:
                continue
            for score, value in self.of(records[cell.id]).items():
                row = (cell.id, cell.name, cell.variant.name, cell.case.prompt, cell.case.seed,
                       cell.case.num_frames, score, value)  # fmt: skip
                for column, entry in zip(columns.values(), row, strict=True):
                    column.append(entry)
        table = pa.table(columns, schema=VALUES_SCHEMA)
        with self._place.writing(self._path) as local:
            pq.write_table(table, local)
        return table


def _stored(place: Output, path: str) -> dict[str, dict[str, float]]:
    known: dict[str, dict[str, float]] = {}
    stream = place.read(path)
    if stream is None:
        return known
    try:
        rows = pq.read_table(stream, columns=["id", "score", "value"]).to_pylist()
    except (pa.ArrowException, OSError, KeyError):
        # Of another version, or half a file: it is made again.
        return known
    for row in rows:
        if row["score"] not in COST:
            known.setdefault(row["id"], {})[row["score"]] = row["value"]
    return known


def _cost(record: VideoRecord) -> dict[str, float]:
    return {
        "forwards": float(record.num_windows + record.anchor_forwards),
        "forward_s": record.forward_s,
        "denoise_s": record.denoise_s,
    }


def _of_file(place: Output, record: VideoRecord) -> dict[str, float]:
    """What was taken where the frames were decoded."""
    try:
        summary = ScoresFile.from_json(place.read_bytes(record.scores) or b"").summary
    except ValueError:
        return {}
    found = {"flickering": summary.flickering, "drift": summary.drift}
    return found if summary.seam is None else found | {"seam": summary.seam}


def _of_frames(place: Output, record: VideoRecord) -> dict[str, float]:
    """The truth about videos of the embedded model's world; nothing of others."""
    words = _words(record.prompt)
    if words is None or (record.height, record.width) != (looks.HEIGHT, looks.WIDTH):
        return {}
    with tempfile.TemporaryDirectory(prefix="glc-ray-") as folder:
        frames = np.stack(list(frames_of(place, record, Path(folder))))
    return long_video_scores(frames, *words)


def _words(prompt: str) -> tuple[str, str, str] | None:
    """Colour, shape and motion of a sentence of that world."""
    match = _SENTENCE.fullmatch(prompt.strip().lower())
    if match is None:
        return None
    known = (looks.COLOURS, looks.SHAPES, motion.MOTIONS, looks.GROUNDS, looks.SKIES)
    if not all(word in words for word, words in zip(match.groups(), known, strict=True)):
        return None
    return match[1], match[2], match[3]


def frames_of(
    place: Output, record: VideoRecord, folder: Path
) -> Generator[NDArray[np.uint8], None, None]:
    """The frames (height, width, 3) of a finished video, in 8 bits.

    Args:
        place: the output.
        record: of the video.
        folder: for a copy, where the output is not local.
    """
    return read_frames(
        place.local_copy(record.path, folder), width=record.width, height=record.height
    )
