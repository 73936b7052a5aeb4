"""What is known of the scores of videos; of an output's it is stored as soon as it is found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from glc_ray.evaluation.evaluation_file import (
    EvaluationFile,
    add_evaluation,
    read_evaluation,
)
from glc_ray.evaluation.scoring import Video
from glc_ray.evaluation.table import Row
from glc_ray.store.output import Output
from glc_ray.store.paths import EVALUATIONS, evaluation_path
from glc_ray.store.storage import StoredFile


class KnownScores:
    """Of each video what was looked for and what was found; curves stay in storage.

    Args:
        videos: that scores are of.
        place: the output that the videos are of; None: nothing is stored.

    Raises:
        StorageError: the output cannot be read.
    """

    def __init__(self, videos: Sequence[Video], place: Output | None) -> None:
        self._videos, self._place = videos, place
        self._files: dict[str, EvaluationFile] = {}
        self._listed: dict[str, StoredFile] = {}
        self.renew()

    def renew(self) -> None:
        """Take over what others have stored since the last time."""
        if self._place is None:
            return
        listed = {file.path: file for file in self._place.list(EVALUATIONS)}
        for video in self._videos:
            path = evaluation_path(video.name)
            if listed.get(path) == self._listed.get(path):
                continue
            file = read_evaluation(self._place, video.name, video.finished_at)
            if file is not None:
                self._files[video.id] = file.without_curves()
        self._listed = listed

    def add(self, video: Video, found: EvaluationFile) -> None:
        """Keep what was found beside what is there."""
        if self._place is not None:
            file = add_evaluation(self._place, video.name, found)
        else:
            before = self._files.get(video.id)
            file = found if before is None else before.beside(found)
        self._files[video.id] = file.without_curves()

    def without(self, names: Iterable[str]) -> list[Video]:
        """Videos of which not all of these were looked for."""
        wanted = tuple(names)
        return [
            video
            for video in self._videos
            if (file := self._files.get(video.id)) is None or not file.has(wanted)
        ]

    def digests(self) -> dict[str, str]:
        """Of each video that was evaluated, by id."""
        return {id_: file.digest for id_, file in self._files.items()}

    def rows(self) -> list[Row]:
        """All scores."""
        return [
            Row(video, name, value)
            for video in self._videos
            if video.id in self._files
            for name, value in self._files[video.id].values.items()
        ]
