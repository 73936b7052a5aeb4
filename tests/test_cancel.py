"""Asking a run to stop videos: what is asked, and what a person is told."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from glc_ray.cancel import main
from glc_ray.store import control, run_status
from glc_ray.store.control import Cancelled
from glc_ray.store.output import Output
from glc_ray.store.run_status import VideoProgress
from tests.test_status import DECODING, DENOISING, record, run_of, store


@pytest.fixture
def place(tmp_path: Path) -> Output:
    """An output with a run on it: two videos in work, some finished before, some in this run."""
    place = Output(str(tmp_path / "out"))
    place.prepare()
    now = time.time()
    store(
        place,
        record("long-done", at=now - 5000),
        record("lost", "failed", at=now - 5000),
        record("just-lost", "failed", at=now),
    )
    run_status.write(place, run_of(num_videos=9, ended={"done": 1}, in_work=(DENOISING, DECODING)))
    return place


def call(place: Output, *arguments: str) -> Result:
    return CliRunner().invoke(main, [place.location, *arguments])


@pytest.mark.parametrize(
    ("name", "is_asked", "text"),
    [
        (
            "blue-box",
            True,
            "denoising: step 3 of 25, window 4 of 18; asked, it stops at its next step",
        ),
        (
            "red-ball",
            True,
            "decoding: frame 9 of 145; asked, it stops at its next segment",
        ),
        ("long-done", False, "done already, so there is nothing to cancel"),
        ("just-lost", False, "failed already, so there is nothing to cancel"),
        ("lost", True, "failed in an earlier run; asked, if it is queued again"),
        ("赤い", True, "neither in work nor finished; asked, if it is queued"),
        (
            "blue-bix",
            True,
            "neither in work nor finished (did you mean blue-box?); asked, if it is queued",
        ),
    ],
)
def test_each_name_is_told_what_happens(
    place: Output, name: str, is_asked: bool, text: str
) -> None:
    result = call(place, name)
    assert (result.exit_code, result.stdout) == (0, f"{name}: {text}\n")
    assert control.read_cancelled(place) == Cancelled(names=frozenset([name] * is_asked))


def test_names_do_not_become_the_whole_run(place: Output) -> None:
    """Where nothing is left to ask for, an empty request would be one for everything."""
    call(place, "long-done", "just-lost")
    assert control.read_cancelled(place) == Cancelled()
    call(place, "blue-box", "long-done", "blue-box")
    assert control.read_cancelled(place) == Cancelled(names=frozenset({"blue-box"}))


def test_whole_run(place: Output) -> None:
    result = call(place, "--yes")
    assert result.exit_code == 0
    assert result.stdout == (
        f"{place.location}: asked; 2 videos in work and 6 queued: those in work stop at their next "
        "step or segment, no other begins. The same command as before goes on with them\n"
    )
    assert control.read_cancelled(place).everything


@pytest.mark.parametrize(("answer", "cancels"), [("y", True), ("n", False), ("", False)])
def test_whole_run_is_asked_about(place: Output, answer: str, cancels: bool) -> None:
    result = CliRunner().invoke(main, [place.location], input=f"{answer}\n")
    assert result.exit_code == 0
    assert result.stdout.startswith(
        f"Cancel the run on {place.location} (process 4242 on node7), with 2 videos in work and 6 "
        "queued? [y/N]: "
    )
    assert ("nothing was cancelled" in result.stdout) != cancels
    assert control.read_cancelled(place).everything == cancels


def test_nobody_to_ask(place: Output) -> None:
    result = CliRunner().invoke(main, [place.location], input="")
    assert result.exit_code == 2
    assert result.stderr.endswith(
        f"error: {place.location}: nothing was cancelled, for nobody said yes; give --yes to "
        "cancel the run without being asked, or the NAMEs of videos\n"
    )
    assert control.read_cancelled(place) == Cancelled()


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("done", "its run is done"),
        ("stopped", "its run was stopped"),
        ("failed", "its run has ended with an error"),
    ],
)
def test_no_run_to_ask(place: Output, state: str, text: str) -> None:
    run_status.write(place, replace(run_of(), state=state))
    for arguments in (["blue-box"], ["--yes"]):
        result = call(place, *arguments)
        assert result.exit_code == 2
        assert result.stderr == (
            f"error: {place.location}: nothing to cancel: {text}; `glc-ray status` shows what "
            "became of its videos\n"
        )
    assert control.read_cancelled(place) == Cancelled()


def test_never_a_run(tmp_path: Path) -> None:
    result = call(Output(str(tmp_path / "nowhere")), "--yes")
    assert result.exit_code == 2
    assert "nothing to cancel: no run has ever been there" in result.stderr
    assert not (tmp_path / "nowhere").exists()


def test_names_that_begin_with_a_hyphen(place: Output) -> None:
    run_status.write(place, run_of(in_work=(VideoProgress("-x", "loading"),)))
    result = CliRunner().invoke(main, ["--", place.location, "-x"])
    assert result.stdout == "-x: loading the model; asked, it stops at its next step\n"


def test_answer_on_a_terminal(place: Output) -> None:
    mine, its = pty.openpty()
    command = [sys.executable, "-m", "glc_ray.cancel", place.location]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its) as process:
        os.close(its)
        os.write(mine, b"y\n")
        assert process.wait(60) == 0
    os.close(mine)
    assert control.read_cancelled(place).everything
