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
from contextlib import suppress
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
    """The script as Slurm would run it, again and again, on two nodes.

    Args:
        folder: for its files.
        arguments: of the script.
        programs: a folder of programs in place of others.
    """

    def __init__(self, folder: Path, arguments: list[str], programs: Path | None = None) -> None:
        self.folder = folder
        self.arguments = arguments
        self.tries = 0
        self.processes: list[subprocess.Popen[bytes]] = []
        python = Path(sys.executable).parent
        path = [*filter(None, [programs]), SHIMS, python, os.environ["PATH"]]
        self.environment = {
            **os.environ,
            "PATH": ":".join(map(str, path)),
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
            process = subprocess.Popen(
                ["bash", str(SCRIPT), *self.arguments],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def end(self) -> None:
        """What Slurm does at last: end whatever a try has left."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def asked(self) -> str:
        """What Slurm was asked for."""
        path = self.folder / "asked"
        return path.read_text() if path.exists() else ""

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()


@pytest.fixture
def played(tmp_path: Path) -> Path:
    """A folder of programs that stand for Ray and Python: a render that ends as it is told to."""
    folder = tmp_path / "programs"
    folder.mkdir()
    programs = {
        "ray": "exec sleep 1000",
        "python": """
            case $1 in
                -c) exec python3 "$@" ;;
                -) exit "${NODES_ARE_MISSING:-0}" ;;
            esac
            echo "$*" >"$HOME/rendered"
            if [[ $RENDER_ENDS == when-asked ]]; then
                trap 'kill $!; sleep 1; exit 3' TERM
                sleep 1000 &
                wait
            fi
            exit "$RENDER_ENDS"
        """,
    }
    for name, text in programs.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("ends", "asked", "code", "requeued"),
    [
        ("0", None, 0, False),
        # A video that failed and a request that is wrong would fail again.
        ("1", None, 1, False),
        ("2", None, 2, False),
        # Killed for its memory, perhaps.
        ("137", None, 0, True),
        ("3", None, 0, True),
        ("when-asked", signal.SIGTERM, 0, True),
        ("when-asked", signal.SIGINT, 3, False),
    ],
)
def test_how_a_job_ends(
    ends: str, asked: int | None, code: int, requeued: bool, played: Path, tmp_path: Path
) -> None:
    job = Job(tmp_path, ["--catalog", "a b.jsonl"], played)
    job.environment["RENDER_ENDS"] = ends
    process = job.start()
    try:
        if asked is not None:
            while not (tmp_path / "rendered").exists():
                assert process.poll() is None, job.log
                time.sleep(0.05)
            process.send_signal(asked)
        assert process.wait(60) == code, job.log
    finally:
        job.end()
    assert bool(job.asked) is requeued
    rendered = (tmp_path / "rendered").read_text().split(" --address ")
    assert rendered[0] == "-m glc_ray.render --catalog a b.jsonl"
    assert rendered[1].startswith("127.0.0.2:")
    assert not list((tmp_path / ".glc-ray").iterdir())


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("NODES_ARE_MISSING", "the head did not start; not queued again: 2 tries were made"),
        ("RENDER_ENDS", "the render ended with code 9; not queued again: 2 tries were made"),
    ],
)
def test_a_job_does_not_queue_for_ever(
    variable: str, words: str, played: Path, tmp_path: Path
) -> None:
    job = Job(tmp_path, ["--output", "out"], played)
    job.environment |= {variable: "9", "GLC_RAY_MAX_RESTARTS": "2"}
    try:
        codes = [job.start().wait(60) for _ in range(3)]
    finally:
        job.end()
    assert codes == [0, 0, 1], job.log
    assert job.asked.count("requeue") == 2
    assert words in job.log


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
        job.end()
    assert "try 2" in job.log
    assert job.asked.count("requeue") == 1
    (record,) = manifest.read(Output(str(output)))
    assert record.status == "done", job.log
    assert record.resumed_at_step > 0
