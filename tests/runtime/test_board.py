"""The board, as its callers' messages come in."""

from __future__ import annotations

import pytest

from glc_ray.runtime.arrivals import Arrival
from glc_ray.runtime.board import Board
from glc_ray.runtime.messages import Timings
from glc_ray.store.run_status import VideoProgress


@pytest.fixture
def board() -> Board:
    """A video that is denoised, with two decoders around."""
    one = Board()
    one.begin_latents("v", "first", 2)
    one.report("v", VideoProgress("video", "denoising", steps_done=3, num_steps=4))
    return one


def standing(board: Board) -> tuple[str, int, int]:
    (video,) = board.in_work()
    return video.state, video.steps_done, video.frames_done


def test_a_video_is_denoised_until_all_its_latents_are_there(board: Board) -> None:
    """Also while decoders are at work; what they did counts then."""
    board.decoded("v", "video", 0, 40)
    board.decoded("v", "video", 17, 40)
    assert standing(board) == ("denoising", 3, 0)
    board.complete("v", Timings(denoise_s=1))
    assert standing(board) == ("decoding", 0, 17)
    board.decoded("v", "video", 8, 40)
    assert standing(board) == ("decoding", 0, 25)
    board.decoded("v", "video", 99, 40)
    assert standing(board) == ("decoding", 0, 40)
    board.report("v", VideoProgress("video", "done"))
    assert board.in_work() == ()
    assert board.arrival("v") == Arrival()


def test_only_the_last_attempt_counts(board: Board) -> None:
    board.add_band("v", "first", 0, 8)
    board.add_band("v", "first", 8, 16)
    assert board.arrival("v").bands == (8, 16)
    assert board.arrival("v").num_frames == 16
    board.begin_latents("v", "second", 2)
    board.add_band("v", "first", 16, 24)
    board.add_band("v", "second", 0, 8)
    assert board.arrival("v") == Arrival("second", (8,))
    board.fail("v", "failed", "why")
    board.add_band("v", "second", 8, 16)
    ended = board.arrival("v")
    assert (ended.bands, ended.status, ended.error) == ((8,), "failed", "why")
    assert ended.has_ended


def test_decoders_that_wait_are_missing_to_no_other_video(board: Board) -> None:
    assert board.spare_decoders("v") == 2
    board.report("w", VideoProgress("other", "denoising"))
    assert board.spare_decoders("v") == 1
    board.report("x", VideoProgress("third", "loading"))
    board.report("y", VideoProgress("fourth", "decoding"))
    assert board.spare_decoders("v") == 0
    for video in "wxy":
        board.report(video, VideoProgress("-", "done"))
    assert board.spare_decoders("v") == 2


def test_a_video_is_divided_once(board: Board) -> None:
    assert board.division("v") == ((),)
    assert board.division("v", ((0, 1), (2,))) == ((0, 1), (2,))
    assert board.division("v", ((1,), (2,))) == ((0, 1), (2,))
    assert board.division("v") == ((0, 1), (2,))
    board.report("v", VideoProgress("video", "failed"))
    assert board.division("v") == ((),)
