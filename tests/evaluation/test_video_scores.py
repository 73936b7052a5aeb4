"""A video's scores as a file and in a few numbers."""

from __future__ import annotations

import numpy as np
import pytest

from glc_ray.evaluation.video_scores import ScoresFile, scores_file, summarise
from glc_ray.media.frame_scores import VideoScores

CHANGE = np.array([2.0, 2.0, 6.0, 2.0, 3.0])
DRIFT = np.array([0.0, 0.0, 0.1, 0.2, 0.3, 0.5])


def test_the_few_numbers():
    summary = summarise(VideoScores(CHANGE, DRIFT), 2, {3: 1.0, 5: 0.5})
    assert summary.mean_change == 3
    assert summary.flickering == 252 / 255
    assert summary.seam == pytest.approx(6 / np.mean([2, 2, 2, 3]))
    assert summary.drift == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("change", "borders"), [(CHANGE, {}), (CHANGE, {3: 0.9}), (CHANGE * 0, {3: 1.0}), ([], {})]
)
def test_no_seam_where_none_can_be_seen(change, borders):
    scores = VideoScores(np.array(change), np.zeros(len(change) + 1))
    assert summarise(scores, 2, borders).seam is None


def test_file_keeps_what_it_says():
    file = scores_file(
        VideoScores(CHANGE / 7, DRIFT / 7), fps=8, anchor_frames=2, borders={3: 1.0, 1: 1 / 3}
    )
    assert ScoresFile.from_json(file.to_json()) == file
    np.testing.assert_allclose(file.change, CHANGE / 7, atol=1e-4)
    np.testing.assert_allclose(file.drift, DRIFT / 7, atol=1e-6)
    assert file.window_borders == ((1, 0.333), (3, 1.0))


@pytest.mark.parametrize("data", [b"", b"[]", b'{"format": 2}', b'{"format": 1}', b"null"])
def test_another_file_is_no_scores(data):
    with pytest.raises(ValueError, match="no scores of a video"):
        ScoresFile.from_json(data)
