"""The command line: bad input ends in one message and exit code 2, before anything is started."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from glc_ray.cli import FrontDoor
from glc_ray.cli import main as glc_ray_main
from glc_ray.render import main
from glc_ray.store.lease import LeaseTimes, run_lease
from glc_ray.store.output import Output
from glc_ray.store.paths import LEASE
from tests.conftest import TOYWORLD


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="python -m glc_ray.render")


def test_help_names_every_option_of_the_front_door() -> None:
    text = run("--help").output
    names = "prompt num-frames seed steps guidance-scale workers method pipeline set fps output"
    for name in [*names.split(), "address"]:
        assert f"  --{name} " in text


def test_help_fits_into_80_columns_and_shows_a_timeline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = run("--help").output.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("--prompt [FRAME: ]TEXT" in line for line in lines)
    assert any('--prompt "0: a red ball' in line for line in lines)


def test_glc_ray_render_is_the_same_command() -> None:
    outputs = [
        CliRunner().invoke(glc_ray_main, ["render", "--help"], prog_name="glc-ray").output,
        run("--help").output,
    ]
    assert [text.split("\n", 1)[1] for text in outputs[:1]] == [outputs[1].split("\n", 1)[1]]
    assert outputs[0].startswith("Usage: glc-ray render [OPTIONS]")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--prompt", ""], "--prompt '': the prompt is empty; say what the video shows"),
        (["--prompt", "0: "], "--prompt '0: ': the text is empty; say what the video shows from"),
        (["--prompt", "a ball", "--prompt", "9: a box"], "--prompt 'a ball': expected FRAME: TEXT"),
        (
            ["--prompt", "0: a ball", "--prompt", "145: a box"],
            "--prompt '145: a box': the video has 145 frames, 0 to 144; choose a lower frame",
        ),
        (
            ["--set", "prompts=[{at_frame: 0, text: a ball}]"],
            "pipeline toyworld: prompt = 'a purple ball rolls over the sea at day' and prompts are",
        ),
        (["--num-frames", "144"], "--num-frames 144: must be 4k+1 for toyworld; the nearest are"),
        (["--method", "magic"], "--method magic: method = 'magic' is not allowed: input should"),
        (["--method", "glcc"], "'freelong' (The long-video method); did you mean glc?"),
        (
            ["--seed", "-1"],
            "--seed -1: must be a whole number from 0 to 9223372036854775807;",
        ),
        (["--set", "prompt="], "pipeline toyworld has no prompt of its own; give one, for example"),
        (["--prompt", "60: a ball"], "--prompt '60: a ball': the first prompt must be at frame 0"),
        (
            ["--num-frames", "1000001"],
            "--num-frames 1000001: video.num_frames = 1000001 is not allowed: input should be less "
            "than or equal to 100001 (",
        ),
        (["--pipeline", "sora"], "--pipeline sora: unknown pipeline; the known ones are"),
        (["--set", "glc.gama=1"], "pipeline toyworld: unknown key glc.gama; allowed here: "),
        (["--set", "model.path=/nowhere"], "model.path = '/nowhere': /nowhere has no model_index"),
        (["--steps", "0"], "--steps 0: sampling.num_steps = 0 is not allowed: input should be"),
        (
            ["--steps", "5", "--set", "sampling.num_steps=0"],
            "pipeline toyworld: sampling.num_steps = 0 is not allowed: input should be",
        ),
        (["--workers", "0"], "--workers 0: resources.denoisers.count = 0 is not allowed"),
        (["--output", "/dev/null/out"], "--output /dev/null/out: cannot be written ("),
        (["--steps", "many"], "Invalid value for '--steps': 'many' is not a valid integer."),
    ],
)
def test_bad_input(arguments: list[str], text: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert text in result.stderr.replace("\n", " ")
    assert result.stdout == ""


def test_no_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLC_RAY_FFMPEG", "/nowhere/ffmpeg")
    result = run()
    assert result.exit_code == 2
    assert result.stderr.startswith("error: GLC_RAY_FFMPEG = '/nowhere/ffmpeg': no such program")


def test_an_ffmpeg_that_does_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    program = shutil.which("false")
    assert program is not None
    monkeypatch.setenv("GLC_RAY_FFMPEG", program)
    result = run()
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert result.stderr.startswith(f"error: {program} -encoders failed with exit code 1:")


def test_an_output_that_another_run_took_over(tmp_path: Path) -> None:
    output = Output(str(tmp_path))

    @click.command(cls=FrontDoor)
    def sleeper() -> None:
        with run_lease(output, times=LeaseTimes(renew_s=3600)) as lease:
            own = lease.own.token
            other = asdict(lease.own) | {"token": "other", "replaces": [own]}
            output.put_bytes(json.dumps(other).encode(), f"{LEASE}/other.json")
            lease.renew()
            lease.check()

    result = CliRunner().invoke(sleeper)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert result.stderr.startswith(
        f"error: {output.uri()}: this run gave no sign for so long that"
    )


def test_a_model_that_was_copied_halfway(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(TOYWORLD, tmp_path / "model"))
    config = folder / "vae" / "config.json"
    config.write_bytes(config.read_bytes()[:100])
    result = run("--set", f"model.path={folder}")
    assert result.exit_code == 2
    assert isinstance(result.exception, SystemExit), "no traceback"
    assert result.stderr.startswith(f"error: model.path: {config} cannot be read as a JSON object;")


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    """In a process of its own: a failed connection leaves traces in Ray's global state."""
    done = subprocess.run(
        [sys.executable, "-m", "glc_ray.render", "--address", "127.0.0.1:1", "--output", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    expected = "error: --address 127.0.0.1:1: no Ray cluster answers there ("
    assert done.stderr.splitlines()[-1].startswith(expected)
