"""Log lines, as a person, a log file and a program read them."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner

from glc_ray import logs, render
from glc_ray.logs import about, log_to_stderr

_LOG = logging.getLogger("glc_ray.some.actor")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("glc_ray")
    before = [*root.handlers], root.level, own.level
    yield
    root.handlers[:], own.level = before[0], before[2]
    root.setLevel(before[1])
    logs._about.clear()


def said(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().err


def test_lines_of_an_actor_say_what_they_are_about(capfd: pytest.CaptureFixture[str]) -> None:
    log_to_stderr(is_actor=True)
    about(video="red-ball", attempt=2)
    _LOG.info("begins")
    about(step=3)
    _LOG.warning("a worker was lost", extra={"worker": 7, "attempt": 41})
    about(video=None, step=None, attempt=None)
    _LOG.info("idle")
    first, second, third = said(capfd).splitlines()
    date = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    assert re.fullmatch(rf"{date} info video=red-ball attempt=2: begins", first)
    assert re.fullmatch(
        rf"{date} warning video=red-ball step=3 attempt=41 worker=7: a worker was lost", second
    )
    assert re.fullmatch(rf"{date} info: idle", third)


def test_json_is_an_object_a_line_with_tracebacks_in_it(capfd: pytest.CaptureFixture[str]) -> None:
    log_to_stderr("json", is_actor=True)
    about(video="red-ball", step=3, attempt=1)
    try:
        raise ValueError('not "finite"\nat all')
    except ValueError:
        _LOG.exception("denoising failed")
    (line,) = said(capfd).splitlines()
    found = json.loads(line)
    assert found["traceback"].startswith("Traceback (most recent call last)")
    assert found["traceback"].endswith('ValueError: not "finite"\nat all')
    del found["traceback"], found["time"]
    assert found == {
        "level": "error",
        "logger": "glc_ray.some.actor",
        "video": "red-ball",
        "step": 3,
        "attempt": 1,
        "message": "denoising failed",
    }


def test_a_terminal_gets_warnings_in_short() -> None:
    script = "import logging; from glc_ray.logs import log_to_stderr; log_to_stderr()\n"
    script += "log = logging.getLogger('glc_ray.job'); log.info('a'); log.warning('no word: zebra')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr == "warning: no word: zebra\n"


def test_a_users_mistake_as_json() -> None:
    result = CliRunner().invoke(render.main, ["--log-format", "json", "--pipeline", "nothing"])
    found = json.loads(result.stderr)
    assert result.exit_code == 2
    assert found["level"] == "error"
    assert found["message"].startswith("--pipeline nothing")


def test_no_color_reaches_every_display(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    monkeypatch.setenv("NO_COLOR", "")
    assert not Console(force_terminal=True).no_color
    CliRunner().invoke(render.main, ["--no-color", "--pipeline", "nothing"])
    assert Console(force_terminal=True).no_color


def test_the_log_file_is_that_of_standard_error(tmp_path: object) -> None:
    script = "from glc_ray.logs import log_file; print(log_file())"
    with open(f"{tmp_path}/actor.err", "w") as errors:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=errors, text=True
        )
    host, _, path = done.stdout.strip().partition(":")
    assert host
    assert path == f"{tmp_path}/actor.err"
