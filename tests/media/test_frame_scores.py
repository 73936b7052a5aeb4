"""Scores of frames: against plain formulas, and the same for any division into segments."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glc_ray.media.frame_scores import (
    FrameScores,
    SegmentScores,
    change,
    drift,
    join_scores,
    look,
)
from tests.media.clips import moving_texture


def scores_of(frames: np.ndarray, batch: int = 3) -> SegmentScores:
    """As they are taken while a segment is encoded, and read back from its file."""
    watcher = FrameScores()
    passed = list(watcher.watch(frames[at : at + batch] for at in range(0, len(frames), batch)))
    assert np.array_equal(np.concatenate(passed), frames)
    return SegmentScores.from_json(watcher.scores().to_json())


@settings(deadline=None, max_examples=25)
@given(st.data(), st.integers(1, 14), st.sampled_from([8, 16]))
def test_any_division_gives_the_scores_of_the_whole(data, num_frames, bit_depth):
    frames = moving_texture(num_frames, bit_depth, height=20, width=28)
    borders = data.draw(
        st.sets(st.integers(1, num_frames - 1)) if num_frames > 1 else st.just(set())
    )
    cuts = [0, *sorted(borders), num_frames]
    batch = data.draw(st.integers(1, 4))
    segments = [scores_of(frames[a:b], batch) for a, b in pairwise(cuts)]
    joined = join_scores(segments, anchor_frames=5)
    whole = join_scores([scores_of(frames, 8)], anchor_frames=5)
    assert np.array_equal(joined.change, whole.change)
    assert np.array_equal(joined.drift, whole.drift)
    assert (len(joined.change), len(joined.drift)) == (num_frames - 1, num_frames)


def test_change_is_the_mean_absolute_difference():
    before, frame = np.random.default_rng(0).integers(0, 256, (2, 31, 17, 3), dtype=np.uint8)
    expected = np.abs(before.astype(float) - frame).mean()
    assert change(before, frame) == pytest.approx(expected, rel=1e-12)
    assert change(frame, frame) == 0
    assert change(np.zeros_like(frame), np.full_like(frame, 255)) == 255


def test_sixteen_bits_are_scored_as_eight():
    eight = moving_texture(4)
    as_sixteen = eight.astype(np.uint16) * 257
    for mine, its in zip(
        vars(scores_of(eight)).values(), vars(scores_of(as_sixteen)).values(), strict=True
    ):
        assert np.array_equal(mine, its)


def test_a_look_has_the_means_of_the_cells():
    colours = np.random.default_rng(1).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    frame = np.repeat(np.repeat(colours, 16, axis=0), 24, axis=1)
    features = look(frame).reshape(4, 4, 4) / 65535
    np.testing.assert_allclose(features[..., :3], colours / 255, atol=1e-5)
    assert (features[..., 3] > 0).any(), "cells have edges between them"
    assert (look(np.full((64, 96, 3), 77, np.uint8)).reshape(16, 4)[:, 3] == 0).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (480, 720), (1, 300), (129, 128)])
def test_a_look_of_any_size(size):
    frame = np.full((*size, 3), 51, np.uint8)
    cells = min(size[0], 4) * min(size[1], 4) if max(size) <= 128 else None
    features = look(frame).reshape(-1, 4) / 65535
    assert cells in (None, len(features))
    np.testing.assert_allclose(features, [[0.2, 0.2, 0.2, 0]] * len(features), atol=1e-5)


def test_drift_is_the_distance_from_the_mean_of_the_first_clip():
    looks = np.random.default_rng(2).integers(0, 65536, (9, 6), dtype=np.uint16)
    features = looks.astype(float) / 65535
    mean = features[:4].mean(0)
    expected = [np.sqrt(np.mean((row - mean) ** 2)) for row in features]
    np.testing.assert_allclose(drift(looks, 4), expected, rtol=1e-12)


def test_a_video_that_grows_darker_drifts_further_and_further():
    light = np.linspace(200, 60, 20).astype(np.uint8)[:, None, None, None]
    video = join_scores([scores_of(np.broadcast_to(light, (20, 16, 24, 3)))], anchor_frames=5)
    assert (np.diff(video.drift[5:]) > 0).all()
    still = join_scores([scores_of(np.broadcast_to(light[:1], (20, 16, 24, 3)))], anchor_frames=5)
    assert not still.drift.any()
    assert not still.change.any()


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"change": [1], "looks": "AAA="}', b"\xff"])
def test_another_file_is_no_scores(data):
    with pytest.raises(ValueError, match=r"."):
        SegmentScores.from_json(data)
