"""Whoever writes a prompt writes text: to a terminal, a log, a page and Prometheus."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, generate_latest

from glc_ray.cli import FrontDoor
from glc_ray.exporter import FarmCollector
from glc_ray.logs import _Dated, _Json, _Short
from glc_ray.plain_text import plain, printable, without_keys
from glc_ray.protocols import UserError
from glc_ray.store import run_status
from glc_ray.store.output import Output
from glc_ray.store.storage import connect, without_secrets

HOSTILE = 'a\x1b]0;owned\x07\r\x9b2J\u202e\u2028"\\\nerror: all disks are full'
SECRET = "wJalrXUtnFEMI"  # noqa: S105


def test_a_terminal_gets_no_commands() -> None:
    assert plain(HOSTILE) == 'a ]0;owned 2J "\\ error: all disks are full'
    assert printable("two\nlines\tand a \x1b") == "two\nlines\tand a \ufffd"

    @click.command(cls=FrontDoor)
    def main() -> None:
        raise UserError(f"prompt {HOSTILE}")

    said = CliRunner().invoke(main).stderr
    assert said.startswith("error: prompt a")
    assert not set(said) & set("\x1b\x07\r\x9b\u202e\u2028")


@pytest.mark.parametrize("formatter", [_Short(), _Dated(), _Json()])
def test_a_log_line_cannot_pretend_to_be_another(formatter: logging.Formatter) -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "prompt %s", (HOSTILE,), None)
    record.video = HOSTILE
    first, *others = formatter.format(record).split("\n")
    assert "prompt" in first or others
    assert all(line.startswith("  ") for line in others)
    assert not set("".join([first, *others])) & set("\x1b\x07\r\x9b\u202e\u2028")
    if isinstance(formatter, _Json):
        assert json.loads(first)["video"] == HOSTILE


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIAKEY:{SECRET}@bucket/out",
        f"s3://AKIAKEY:{SECRET}@bucket/out?region=x&scheme=http",
        f"s3://AKIAKEY:a?{SECRET}@bucket/out",
        f"s3://AKIAKEY:a/{SECRET}/b@bucket/out",
        f"abfs://c@account/out?account_key={SECRET}",
        f"gs://bucket/out?access_token={SECRET}",
    ],
)
def test_keys_of_a_uri_are_not_shown(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    assert SECRET not in without_secrets(uri)
    assert SECRET not in without_keys(f"{uri}: cannot be read ({uri!r})")
    record = logging.LogRecord("x", logging.ERROR, "", 0, "cannot read %s", (uri,), None)
    assert all(SECRET not in one.format(record) for one in (_Short(), _Dated(), _Json()))
    try:
        connect(f"{uri}&unknown_option=1" if "?region" in uri else f"no-{uri}")
    except UserError as error:
        assert SECRET not in str(error)  # noqa: PT017
    assert SECRET not in Output(f"s3://AKIAKEY:{SECRET}@bucket/out?region=x").uri("a.mp4")


def test_a_label_is_escaped(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    output.prepare()
    video = run_status.VideoProgress(HOSTILE, "denoising", slot=0)
    status = run_status.RunStatus("elsewhere", 1, 1e9, 4e9, in_work=(video,))
    run_status.write(output, status)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(FarmCollector(output))
    text = generate_latest(registry).decode()
    assert 'video="a ]0;owned 2J \\"\\\\ error: all disks are full"' in text
    assert not [line for line in text.splitlines() if line.startswith("error")]
