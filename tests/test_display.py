"""What the display says."""

from __future__ import annotations

import io
import threading

import pytest
from rich.console import Console

from glc_ray import display
from glc_ray.runtime.messages import BoardSnapshot, VideoProgress

DONE = BoardSnapshot(in_work=(), ended=(VideoProgress("ball", "done"),), counts={"done": 1})
DENOISING = VideoProgress(
    "ball", "denoising", steps_done=2, num_steps=25, windows_done=4, num_windows=18
)


@pytest.mark.parametrize(
    ("progress", "eta_s", "text"),
    [
        (DENOISING, 65.0, "denoising: step 3 of 25, window 4 of 18, 1:05 left"),
        (
            VideoProgress("ball", "denoising", steps_done=25, num_steps=25),
            None,
            "denoising: step 25 of 25",
        ),
        (
            VideoProgress("ball", "decoding", frames_done=9, num_frames=145),
            None,
            "decoding: frame 9 of 145",
        ),
        (VideoProgress("ball", "done"), None, "done"),
    ],
)
def test_words(progress: VideoProgress, eta_s: float | None, text: str) -> None:
    assert display.describe(progress, eta_s) == text


def test_fraction_never_goes_back() -> None:
    states = [
        VideoProgress("v", "queued"),
        VideoProgress("v", "denoising", num_steps=2),
        VideoProgress("v", "denoising", num_steps=2, windows_done=1, num_windows=3),
        VideoProgress("v", "denoising", num_steps=2, windows_done=3, num_windows=3),
        VideoProgress("v", "denoising", steps_done=1, num_steps=2, windows_done=0, num_windows=3),
        VideoProgress("v", "denoising", steps_done=1, num_steps=2, windows_done=1, num_windows=3),
        VideoProgress("v", "denoising", steps_done=2, num_steps=2, windows_done=0, num_windows=3),
        VideoProgress("v", "decoding", frames_done=5, num_frames=9),
        VideoProgress("v", "done"),
    ]
    fractions = [display.fraction(state) for state in states]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_log_has_a_line_a_state_not_a_line_a_poll() -> None:
    stream = io.StringIO()
    polls = iter([DENOISING] * 3)
    asked_often = threading.Event()

    def source() -> BoardSnapshot:
        video = next(polls, None)
        if video is not None:
            return BoardSnapshot(in_work=(video,), ended=(), counts={})
        asked_often.set()
        return DONE

    with display.watching(source, 1, Console(file=stream, width=200)):
        assert asked_often.wait(60)
    lines = stream.getvalue().splitlines()
    assert lines == ["ball: denoising: step 3 of 25, window 4 of 18", "ball: done"]


def test_source_that_fails_does_not_end_what_is_watched() -> None:
    asked_again = threading.Event()
    calls: list[int] = []

    def source() -> BoardSnapshot:
        calls.append(1)
        if len(calls) > 1:
            asked_again.set()
        raise ConnectionError

    with display.watching(source, 1, Console(file=io.StringIO())):
        assert asked_again.wait(60), "one failed question must not be the last"


def test_terminal_shows_a_bar() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120)
    with display.watching(lambda: DONE, 1, console):
        pass
    assert "ball" in stream.getvalue()
