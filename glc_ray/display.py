"""What a person sees while videos render: a live display on a terminal, plain lines in a log."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from glc_ray.logs import as_json
from glc_ray.plain_text import plain
from glc_ray.runtime.messages import BoardSnapshot
from glc_ray.store.run_status import FINAL_STATES, VideoProgress
from glc_ray.telemetry import VIDEO_STATES

_POLL_S = 0.5
_LOG_EVERY_S = 10.0


class _Display(Protocol):
    def show(self, board: BoardSnapshot) -> None: ...


def shown(
    source: Callable[[], BoardSnapshot], num_videos: int, quiet: bool, log_format: str = "text"
) -> AbstractContextManager[None]:
    """``watching`` on the terminal, as lines of JSON where logs are, or nothing."""
    if quiet:
        return nullcontext()
    is_json = log_format == "json"
    return watching(source, num_videos, Console(stderr=True), is_json=is_json)


@contextmanager
def watching(
    source: Callable[[], BoardSnapshot],
    num_videos: int,
    console: Console,
    *,
    is_json: bool = False,
) -> Iterator[None]:
    """Poll ``source`` and show it until the block ends."""
    stop = threading.Event()
    with _display(num_videos, console, is_json) as display:

        def show() -> None:
            # A display that cannot ask must not end what it displays.
            with suppress(Exception):
                display.show(source())

        def poll() -> None:
            while not stop.wait(_POLL_S):
                show()

        thread = threading.Thread(target=poll, name="display", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            show()


@contextmanager
def _display(num_videos: int, console: Console, is_json: bool) -> Iterator[_Display]:
    if is_json or not console.is_terminal:
        yield _Lines(num_videos, console, is_json=is_json)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=12),
        TextColumn("{task.fields[detail]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bars(num_videos, progress)


class _Bars:
    """One bar a video in work, and one for all of them where there are several."""

    def __init__(self, num_videos: int, progress: Progress) -> None:
        self._num_videos = num_videos
        self._progress = progress
        self._eta = Eta()
        self._bars: dict[str, TaskID] = {}
        self._told: frozenset[str] = frozenset()
        self._all: TaskID | None = None
        if num_videos > 1:
            self._all = progress.add_task("videos", total=num_videos, detail="")

    def show(self, board: BoardSnapshot) -> None:
        if self._all is None:
            for video in (*board.in_work, *board.ended):
                self._show_bar(video)
            return
        in_work = {video.name for video in board.in_work}
        for name in self._bars.keys() - in_work:
            self._progress.remove_task(self._bars.pop(name))
        for video in board.in_work:
            self._show_bar(video)
        self._tell(board)
        detail = f"{_finished(board)} of {self._num_videos}: {in_words(board.counts)}"
        self._progress.update(self._all, completed=_finished(board), detail=detail.rstrip(": "))

    def _show_bar(self, video: VideoProgress) -> None:
        if video.name not in self._bars:
            self._bars[video.name] = self._progress.add_task(video.name[:18], detail="")
        self._progress.update(
            self._bars[video.name],
            completed=fraction(video),
            total=1,
            detail=describe(video, self._eta.of(video)),
        )

    def _tell(self, board: BoardSnapshot) -> None:
        """A line above the bars for each video that ended otherwise than done."""
        lost = {video.name: video for video in board.ended if video.state != "done"}
        for name in lost.keys() - self._told:
            line = f"{name}: {describe(lost[name], None)}"
            self._progress.console.print(line, markup=False, highlight=False, soft_wrap=True)
        self._told = frozenset(lost)


class _Lines:
    """A line when a video changes its state, and one every ten seconds in between."""

    def __init__(self, num_videos: int, console: Console, *, is_json: bool = False) -> None:
        self._num_videos = num_videos
        self._console = console
        self._is_json = is_json
        self._eta = Eta()
        self._said: dict[str, tuple[str, float]] = {}

    def show(self, board: BoardSnapshot) -> None:
        said: dict[str, tuple[str, float]] = {}
        for video in {one.name: one for one in (*board.in_work, *board.ended)}.values():
            state, at = self._said.get(video.name, ("", 0.0))
            now = time.monotonic()
            eta = self._eta.of(video)
            is_final = video.state in FINAL_STATES
            if video.state == state and (is_final or now - at < _LOG_EVERY_S):
                said[video.name] = (state, at)
                continue
            said[video.name] = (video.state, now)
            line = self._line(video, describe(video, eta), _finished(board))
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
        # No more than the board itself remembers, in however long a catalog.
        self._said = said

    def _line(self, video: VideoProgress, text: str, finished: int) -> str:
        if self._is_json:
            step = video.steps_done if video.state == "denoising" else None
            return as_json("info", text, video=video.name, state=video.state, step=step)
        count = f"[{finished}/{self._num_videos}] " if self._num_videos > 1 else ""
        return f"{count}{video.name}: {text}"


class Eta:
    """Seconds left of a video's denoising, from the steps done since it was first seen."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[float, float]] = {}

    def of(self, video: VideoProgress) -> float | None:
        """None where it is not denoised, or before a step was seen."""
        if video.state != "denoising":
            self._first.pop(video.name, None)
            return None
        now, done = time.monotonic(), _steps(video)
        start, done_at_start = self._first.setdefault(video.name, (now, done))
        if done - done_at_start < 1:
            return None
        return (now - start) / (done - done_at_start) * (video.num_steps - done)


def describe(video: VideoProgress, eta_s: float | None) -> str:
    """``denoising: step 3 of 25, window 4 of 18, 1:05 left``."""
    if video.state == "denoising":
        step = min(video.steps_done + 1, video.num_steps)
        parts = [f"step {step} of {video.num_steps}"]
        if video.num_windows:
            parts.append(f"window {video.windows_done} of {video.num_windows}")
        if eta_s is not None:
            parts.append(f"{clock(eta_s)} left")
        return f"denoising: {', '.join(parts)}"
    if video.state == "loading":
        return "loading the model"
    if video.state == "decoding" and video.num_frames:
        return f"decoding: frame {video.frames_done} of {video.num_frames}"
    return plain(video.state)


def in_words(counts: Mapping[str, int]) -> str:
    """``2 denoising, 40 done, 1 failed``, in the order in which a video comes to these states."""
    known = [state for state in VIDEO_STATES if counts.get(state)]
    return ", ".join(f"{counts[state]} {state}" for state in known)


def clock(seconds: float) -> str:
    """``1:05``, ``2:01:05``, ``3 d 02:01:05``."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour:02d}:{minute:02d}:{second:02d}"
    return f"{hour}:{minute:02d}:{second:02d}" if hour else f"{minute}:{second:02d}"


def fraction(video: VideoProgress) -> float:
    """How much of a video is done, 0 to 1; denoising is taken for nine tenths of it."""
    if video.state in FINAL_STATES:
        return 1.0
    if video.state == "decoding":
        return 0.9 + 0.1 * video.frames_done / max(video.num_frames, 1)
    return 0.9 * _steps(video) / max(video.num_steps, 1)


def _steps(video: VideoProgress) -> float:
    """Steps done, the current one by its windows."""
    return video.steps_done + video.windows_done / max(video.num_windows, 1)


def _finished(board: BoardSnapshot) -> int:
    return sum(board.counts.values())
