"""What the display says."""

from __future__ import annotations

import io
import threading
from collections import Counter
from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.progress import Progress

from glc_ray import display
from glc_ray.runtime.messages import BoardSnapshot
from glc_ray.store.run_status import VideoProgress

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
    assert display.describe(VideoProgress(**asdict(progress)), eta_s) == text, "in a file, too"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0:00"), (65, "1:05"), (59.6, "1:00"), (7265, "2:01:05"), (266465, "3 d 02:01:05")],
)
def test_clock(seconds: float, text: str) -> None:
    assert display.clock(seconds) == text


def test_counts_in_the_order_of_a_video_s_life_without_zeros() -> None:
    counts = {"failed": 1, "done": 40, "cancelled": 0, "denoising": 2}
    assert display.in_words(counts) == "2 denoising, 40 done, 1 failed"


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


def _board(in_work: list[int], ended: list[tuple[int, str]]) -> BoardSnapshot:
    return BoardSnapshot(
        in_work=tuple(VideoProgress(f"v{i}", "denoising", 1, 9) for i in in_work),
        ended=tuple(VideoProgress(f"v{i}", state) for i, state in ended[-64:]),
        counts=dict(Counter(state for _, state in ended)),
    )


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 20), max_size=10))
def test_never_more_bars_than_videos_in_work(sizes: list[int]) -> None:
    """Whatever begins and ends between two looks at a catalog of 100,000."""
    with Progress(console=Console(file=io.StringIO()), disable=True) as progress:
        bars = display._Bars(100_000, progress)
        begun = 0
        for size in sizes:
            ended = [(i, "done") for i in range(begun)]
            bars.show(_board(list(range(begun, begun + size)), ended))
            names = [task.description for task in progress.tasks]
            assert names == ["videos", *(f"v{i}" for i in range(begun, begun + size))]
            assert progress.tasks[0].completed == begun
            begun += size


def test_bar_of_all_counts_by_state_out_of_the_total() -> None:
    with Progress(console=Console(file=io.StringIO())) as progress:
        bars = display._Bars(40, progress)
        bars.show(_board([7], []))
        assert progress.tasks[0].fields["detail"] == "0 of 40"
        bars.show(_board([7], [(0, "failed"), (1, "done"), (2, "done")]))
        assert progress.tasks[0].fields["detail"] == "3 of 40: 2 done, 1 failed"


def test_terminal_tells_of_each_video_that_is_lost_once() -> None:
    stream = io.StringIO()
    boards = [_board([1, 2], []), *[_board([2], [(0, "done"), (1, "failed")])] * 3]
    with Progress(console=Console(file=stream, width=80)) as progress:
        bars = display._Bars(40, progress)
        for board in boards:
            bars.show(board)
    assert stream.getvalue().count("v1: failed") == 1
    assert "v0: done" not in stream.getvalue()


def test_lines_remember_no_more_than_the_board() -> None:
    stream = io.StringIO()
    lines = display._Lines(1000, Console(file=stream, width=80))
    for begun in range(0, 1000, 10):
        lines.show(_board(list(range(begun, begun + 10)), [(i, "done") for i in range(begun)]))
        assert len(lines._said) <= 10 + 64
    said = stream.getvalue().splitlines()
    assert said[0] == "[0/1000] v0: denoising: step 2 of 9"
    assert said[-1] == "[990/1000] v989: done"
    assert len(said) == len(set(said)) == 1990
