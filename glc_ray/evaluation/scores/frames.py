"""Temporal flickering, seam and drift: the numbers of a decode, of the compressed file."""

from __future__ import annotations

from collections.abc import Iterator

from glc_ray.evaluation.scores.measure import Facts, Measured
from glc_ray.evaluation.video_scores import summarise
from glc_ray.media.frame_scores import FrameScores, join_scores
from glc_ray.media.read import Frame


class ChangeScores:
    """``temporal_flickering``, ``seam`` and ``drift``; formulas in ``media.frame_scores`` and
    ``evaluation.video_scores``.

    temporal_flickering is VBench's formula on the file: (255 − mean change) / 255. VBench's own
    protocol leaves out videos that are not static; here that is nobody's choice but the reader's.
    Its OpenCV takes every file for BT.601: of others its number differs in the fourth digit.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._frames = FrameScores()
        self._count = 0

    def add(self, frame: Frame) -> None:
        self._frames.add(frame)
        self._count += 1

    def results(self) -> Iterator[Measured]:
        if self._count < 2:
            return
        anchor = self._facts.anchor_frames
        borders = {at: share for at, share in self._facts.borders.items() if at < self._count}
        scores = join_scores([self._frames.scores()], anchor)
        summary = summarise(scores, anchor, borders)
        yield Measured("temporal_flickering", summary.flickering, scores.change, first=1)
        if summary.seam is not None:
            yield Measured("seam", summary.seam)
        yield Measured("drift", summary.drift, scores.drift)
