"""Which videos there are to score: those of an output, or the files of a folder."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import PurePosixPath

from glc_ray.evaluation.scoring import Video
from glc_ray.evaluation.video_scores import ScoresFile
from glc_ray.media.read import VIDEO_SUFFIXES
from glc_ray.protocols import UserError
from glc_ray.store import manifest
from glc_ray.store.output import Output
from glc_ray.store.storage import OutsideError

_COLUMNS = (
    *("id", "name", "prompt", "status", "path", "scores", "fps", "num_frames", "finished_at"),
)
_INDEX = re.compile(r"-\d+$")


def output_videos(output: Output) -> Iterator[Video]:
    """The videos of an output that are done, with what is stored of where their windows end.

    Raises:
        UserError, StorageError: its manifest cannot be read.
    """
    for batch in manifest.iter_batches(output, _COLUMNS):
        for row in batch.to_pylist():
            if row["status"] == "done" and row["path"]:
                yield _video(output, row)


def folder_videos(location: str) -> list[Video]:
    """The video files of a folder or a URI, by name, or the one that it is.

    The id of each is its name without the suffix, and its prompt that without ``-INDEX``: as VBench
    names files.

    Raises:
        UserError: there are none.
    """
    whole = location.rstrip("/")
    folder, _, name = whole.rpartition("/")
    is_file = name.lower().endswith(VIDEO_SUFFIXES)
    output = Output((folder or ("/" if whole.startswith("/") else ".")) if is_file else location)
    files = [output.stored(name)] if is_file else output.list("", recursive=False)
    found = [file.path for file in files if file and file.path.lower().endswith(VIDEO_SUFFIXES)]
    if not found:
        raise UserError(
            f"{output.uri()}: neither an output of glc-ray nor a folder of videos; give the "
            "--output of a render, a folder of videos, or one of them "
            f"({', '.join(VIDEO_SUFFIXES)})"
        )
    stems = [PurePosixPath(path).stem for path in found]
    times = Counter(stems)
    return [
        Video(
            id=stem if times[stem] == 1 else path,
            name=stem,
            path=path,
            prompt=_INDEX.sub("", stem),
            output=output.location,
        )
        for path, stem in zip(found, stems, strict=True)
    ]


def _video(output: Output, row: dict[str, object]) -> Video:
    stored, path = None, str(row["scores"])
    with suppress(ValueError, OutsideError):
        stored = ScoresFile.from_json((output.read_bytes(path) if path else None) or b"")
    return Video(
        id=str(row["id"]),
        name=str(row["name"]),
        path=str(row["path"]),
        prompt=str(row["prompt"]),
        output=output.location,
        finished_at=float(row["finished_at"]),  # type: ignore[arg-type]
        fps=float(row["fps"]),  # type: ignore[arg-type]
        num_frames=int(row["num_frames"]),  # type: ignore[call-overload]
        anchor_frames=stored.anchor_frames if stored else 0,
        borders=dict(stored.window_borders) if stored else {},
    )
