"""Scores of finished videos, each read once, frame by frame."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from glc_ray.evaluation.scores.measure import Facts, Measured
from glc_ray.evaluation.scores.registry import DEFAULT, KINDS, chosen
from glc_ray.media.read import cut_short, opened
from glc_ray.store.output import Output
from glc_ray.store.scratch import scratch_folder

_DEFAULT_FPS = 8.0
_ANCHOR_S = 2.0


@dataclass(frozen=True)
class Video:
    """A video to score."""

    id: str
    path: str
    """A local file, or folder of pictures; with ``output`` below that."""
    prompt: str = ""
    output: str = ""
    """Location of the output that it lies in."""
    name: str = ""
    finished_at: float = 0.0
    """When it was rendered, in seconds since 1970: scores are of that file and no later one."""
    fps: float = 0.0
    """0: what the file says."""
    num_frames: int = 0
    """That it must have; 0: as many as there are."""
    anchor_frames: int = 0
    """Length of the beginning that drift is measured from; 0: of two seconds."""
    borders: Mapping[int, float] = field(default_factory=dict)
    """Where windows end: see ``window_borders``."""


@dataclass(frozen=True)
class Evaluated:
    """What a video's scores are."""

    scores: tuple[Measured, ...]
    num_frames: int
    fps: float
    seconds: Mapping[str, float]
    """Of work by kind of score, and ``reading``."""


class Evaluator:
    """Computes the scores of some names; what they need is loaded once.

    Args:
        words: names of scores, or of kinds of them; see ``registry``.

    Raises:
        UserError: there is no such score, or a package that it needs is not installed.
    """

    def __init__(self, words: Iterable[str] = DEFAULT) -> None:
        self._names = chosen(words)
        self._makers = {kind: KINDS[kind].load() for kind in self._names}

    def evaluate(self, video: Video) -> Evaluated:
        """Read a video once.

        Raises:
            UnreadableError: it cannot be read, or not to its end.
            StorageError: nor fetched.
        """
        seconds: Counter[str] = Counter()
        with _local(video) as path, opened(path) as source:
            fps = video.fps or source.fps or _DEFAULT_FPS
            facts = Facts(
                prompt=video.prompt,
                fps=fps,
                anchor_frames=video.anchor_frames or max(1, round(_ANCHOR_S * fps)),
                borders=video.borders,
            )
            scores = {kind: make(facts) for kind, make in self._makers.items()}
            count, start = 0, time.perf_counter()
            for frame in source.frames:
                count += 1
                start = _lap(seconds, "reading", start)
                for kind, score in scores.items():
                    score.add(frame)
                    start = _lap(seconds, kind, start)
        if video.num_frames and count != video.num_frames:
            raise cut_short(video.path, count, video.num_frames)
        measured = []
        for kind, score in scores.items():
            start = time.perf_counter()
            measured += [one for one in score.results() if one.name in self._names[kind]]
            _lap(seconds, kind, start)
        return Evaluated(tuple(measured), count, fps, dict(seconds))


def evaluate_videos(
    videos: Iterable[Video | tuple[str, str | Path, str]], scores: Iterable[str] = DEFAULT
) -> Iterator[tuple[str, str, float]]:
    """The scores of videos in long form, in order, in this process.

    Args:
        videos: of an output (``output_videos``), or (id, path, prompt) of any files. ``seam`` needs
            to know where windows end, and is there only of those of an output.
        scores: as of ``Evaluator``. A video that has none of a name is passed over: it is too
            short, or of another world than ``toyworld``'s.

    Yields:
        (video id, name of the score, value).

    Raises:
        UserError: as ``Evaluator``, before the first video.
        UnreadableError: a video cannot be read.
    """
    evaluator = Evaluator(scores)
    return _evaluated(evaluator, videos)


def _evaluated(
    evaluator: Evaluator, videos: Iterable[Video | tuple[str, str | Path, str]]
) -> Iterator[tuple[str, str, float]]:
    for given in videos:
        video = given if isinstance(given, Video) else Video(given[0], str(given[1]), given[2])
        for one in evaluator.evaluate(video).scores:
            yield video.id, one.name, one.value


def _lap(seconds: Counter[str], what: str, start: float) -> float:
    now = time.perf_counter()
    seconds[what] += now - start  # type: ignore[assignment]
    return now


@contextmanager
def _local(video: Video) -> Iterator[Path]:
    if not video.output:
        yield Path(video.path)
        return
    output = Output(video.output)
    if output.is_local:
        yield output.local_copy(video.path, Path())
        return
    with scratch_folder() as folder:
        yield output.local_copies(video.path, Path(folder))
