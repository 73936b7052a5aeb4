"""The Slurm script: its words, and the whole of it with real Ray nodes and Slurm's commands played
by small programs (``shims``)."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glc_ray.store import manifest
from glc_ray.store.output import Output
from tests.cluster_files.commands import parse

SCRIPT = Path(__file__).parents[2] / "cluster" / "slurm" / "glc-ray.sbatch"
SHIMS = Path(__file__).parent / "shims"
STEPS = 200


def words_of(start: str) -> list[str]:
    """A command of the script, its lines joined, with numbers for what the shell puts in."""
    text = SCRIPT.read_text().replace("\\\n", " ")
    (line,) = (line for line in text.splitlines() if start in line)
    command = re.split(r"'\s+worker", line[line.index(start) :])[0].removesuffix(" &")
    return re.sub(r'"\$(\(.*?\)+|\w+|\d)[^" ]*"', "1", command).split()


@pytest.mark.parametrize("start", ["ray start --head", "ray start --block --address"])
def test_ray_takes_the_flags(start: str) -> None:
    context = parse(words_of(start))
    assert context is not None
    assert context.params["block"] is True
    assert context.params["num_cpus"] == 1


def test_the_script_asks_for_a_signal_and_another_try() -> None:
    options = set(re.findall(r"^#SBATCH (\S+)", SCRIPT.read_text(), flags=re.MULTILINE))
    assert {"--signal=B:TERM@300", "--requeue", "--open-mode=append"} <= options
    assert "export RAY_AUTH_MODE=token" in SCRIPT.read_text()


def test_nothing_to_render_is_said_before_anything_starts(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT)], env={**os.environ, "HOME": str(tmp_path)}, capture_output=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"usage: sbatch ")
    assert not list(tmp_path.iterdir())


class Job:
    """The script as Slurm would run it, again and again, on two nodes."""

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self.folder = folder
        self.arguments = arguments
        self.tries = 0
        python = Path(sys.executable).parent
        self.environment = {
            **os.environ,
            "PATH": f"{SHIMS}:{python}:{os.environ['PATH']}",
            "HOME": str(folder),
            "GLC_RAY_ASKED": str(folder / "asked"),
            "GLC_RAY_REAL_RAY": str(python / "ray"),
            "SLURM_JOB_ID": str(10**6 + secrets.randbelow(10**6)),
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_CPUS_PER_TASK": "1",
            "HF_HUB_OFFLINE": "1",
        }

    def start(self) -> subprocess.Popen[bytes]:
        """Its next try."""
        environment = {**self.environment, "SLURM_RESTART_COUNT": str(self.tries)}
        self.tries += 1
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                ["bash", str(SCRIPT), *self.arguments],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def asked(self) -> str:
        """What Slurm was asked for."""
        path = self.folder / "asked"
        return path.read_text() if path.exists() else ""

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.mark.slow
def test_a_job_that_is_signalled_queues_again_and_goes_on(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    arguments = ["--pipeline", str(tiny_pipeline), "--workers", "2", "--steps", str(STEPS)]
    job = Job(tmp_path, [*arguments, "--output", str(output)])
    process = job.start()
    try:
        deadline = time.monotonic() + 300
        while not list(output.glob(".work/*/checkpoints/*.safetensors")):
            assert process.poll() is None, job.log
            assert time.monotonic() < deadline, job.log
            time.sleep(0.1)
        # What Slurm does before the time limit: to the batch shell alone.
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0, job.log
        assert job.asked == f"requeue {job.environment['SLURM_JOB_ID']}\n", job.log
        assert "stopped by SIGTERM" in job.log
        # The token is gone with the run.
        assert not list((tmp_path / ".glc-ray").iterdir())
        process = job.start()
        assert process.wait(400) == 0, job.log
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "try 2" in job.log
    assert job.asked.count("requeue") == 1
    (record,) = manifest.read(Output(str(output)))
    assert record.status == "done", job.log
    assert record.resumed_at_step > 0
