"""Where windows end, counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glc_ray.backbones.registry import facts
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.window_borders import window_borders
from tests.conftest import write_tiny_pipeline


def borders(pipeline: str = "toyworld", **options: Any) -> dict[int, float]:
    """Of toyworld: windows of 7 latent frames; 65 frames are 17 latent frames."""
    given = {"video.num_frames": 65, **{key.replace("__", "."): v for key, v in options.items()}}
    job = build_job(load_pipeline(pipeline, list(given.items())), None, 0)
    return window_borders(job, facts(job.pipeline.model))


def test_fixed_windows_have_their_borders_at_every_step():
    # Starts 0, 3, 6, 9, 10; so ends 7, 10, 13, 16, 17, and latent frame k begins with 4(k - 1) + 1.
    latent = [3, 6, 7, 9, 10, 13, 16]
    assert borders(method="gen_l_video") == {4 * (k - 1) + 1: 1.0 for k in latent}


def test_shifts_spread_all_but_the_ends_of_the_first_and_the_last_window():
    shares = borders()
    assert [frame for frame, share in shares.items() if share == 1] == [4 * 6 + 1, 4 * 9 + 1]
    assert max(share for share in shares.values() if share < 1) < 0.9
    assert borders(glc__local_path=False) == {}


@pytest.mark.parametrize("method", ["direct", "freelong"])
def test_one_window_has_no_border(method):
    assert borders(method=method, video__num_frames=25) == {}


def test_a_part_of_the_video_counts_from_its_own_beginning():
    whole = borders(method="gen_l_video")
    part = borders(method="gen_l_video", encode__frames=[20, 40])
    assert part == {frame - 20: 1.0 for frame in whole if 20 < frame < 40}


def test_windows_within_attention_have_borders_too(
    tiny_model: Callable[[str], Path], tmp_path: Path
):
    rotary = str(write_tiny_pipeline(tmp_path, tiny_model("rotary")))
    inside = borders(rotary, method="freenoise", freenoise__level="attention")
    outside = borders(rotary, method="freenoise", freenoise__level="prediction")
    assert inside == outside != {}
