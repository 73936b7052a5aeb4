"""The pictures of a case: all of its videos in one, and a sheet of strips. Read once, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from glc_ray.comparison.design import Case
from glc_ray.comparison.mosaic import Mosaic
from glc_ray.comparison.sheet import Strips
from glc_ray.config import EncodeSpec
from glc_ray.media.encode import encode_frames
from glc_ray.media.formats import choose
from glc_ray.media.read import cut_short, opened
from glc_ray.store.output import Output
from glc_ray.store.record import VideoRecord
from glc_ray.store.scratch import scratch_folder


@dataclass(frozen=True)
class Pictures:
    """Where the pictures of a case are, below the output."""

    case: Case
    video: str
    strips: str


def draw(
    place: Output,
    pictures: Pictures,
    labels: Sequence[str],
    records: Sequence[VideoRecord],
    *,
    columns: int,
) -> None:
    """Make both pictures of a case. Memory is that of a frame of each video and of the sheet.

    Args:
        place: the output that has the videos, and gets the pictures.
        pictures: where they go.
        labels: of the videos.
        records: of the videos, at least one, of equal lengths and sizes.
        columns: of the sheet.

    Raises:
        UnreadableError: a video cannot be read, or not to its end.
        StorageError, FFmpegError: nor fetched, or a picture not written.
    """
    first, case = records[0], pictures.case
    title = f"{case.prompt}  ·  seed {case.seed}"
    mosaic = Mosaic(labels, width=first.width, height=first.height, title=title, fps=first.fps)
    strips = Strips(labels, first.num_frames, title=title, fps=first.fps, picks=columns)

    def drawn(readers: Sequence[Iterator[NDArray[np.uint8]]]) -> Iterator[NDArray[np.uint8]]:
        for index in range(first.num_frames):
            frames = []
            for record, reader in zip(records, readers, strict=True):
                if (frame := next(reader, None)) is None:
                    raise cut_short(place.uri(record.path), index, first.num_frames)
                frames.append(frame)
            strips.add(index, frames)
            yield mosaic.draw(index, frames)[None]

    with ExitStack() as stack:
        folder = Path(stack.enter_context(scratch_folder()))
        readers = []
        for number, record in enumerate(records):
            own = folder / str(number)
            own.mkdir()
            source = opened(place.local_copies(record.path, own))
            readers.append(stack.enter_context(source).frames)
        # Encoded by its own settings: the format of the videos may be one that cannot be watched.
        encoding = choose(EncodeSpec())
        with place.writing(pictures.video) as local:
            encode_frames(
                drawn(readers), local, encoding=encoding, fps=first.fps,
                muxer=encoding.format.muxer,
            )  # fmt: skip
    with place.writing(pictures.strips) as local:
        strips.image().save(local, format="PNG", optimize=True)
