"""``ray job submit -- python -m glc_ray.render …`` against a cluster of its own."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

RAY = Path(sys.executable).with_name("ray")
HOST = "127.0.0.2"
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@pytest.fixture
def dashboard() -> Iterator[str]:
    """The address of a cluster that `ray start` keeps up, whose node is on loopback."""
    port = free_port()
    command = [RAY, "start", "--head", "--block", f"--node-ip-address={HOST}", "--num-cpus=2"]
    command += [f"--port={free_port()}", f"--dashboard-host={HOST}", f"--dashboard-port={port}"]
    # Its default is taken by whatever other cluster runs on this machine.
    command += [f"--dashboard-agent-listen-port={free_port()}"]
    head = subprocess.Popen(
        command,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_for(port, head)
        yield f"http://{HOST}:{port}"
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()


def wait_for(port: int, head: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while head.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.2)
    pytest.fail(f"no cluster: {head.stdout.read().decode() if head.stdout else ''}")


def test_job_submit_renders_on_the_cluster_with_plain_lines(
    dashboard: str, tiny_pipeline: Path, tmp_path: Path
) -> None:
    command = [str(RAY), "job", "submit", "--address", dashboard, "--"]
    command += [sys.executable, "-m", "glc_ray.render", "--pipeline", str(tiny_pipeline)]
    command += ["--output", str(tmp_path / "out")]
    done = submit(command)
    assert done.returncode == 0, done.stdout + done.stderr
    (video,) = (tmp_path / "out" / "videos").iterdir()
    assert f"{video.stem}: done" in done.stdout
    assert f"video          {video}" in done.stdout
    assert "\x1b[" not in "".join(line for line in done.stdout.splitlines() if video.stem in line)


def submit(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Submit, again while the new cluster's job agent is still starting."""
    deadline = time.monotonic() + 120
    while True:
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        if "No available agent" not in done.stdout + done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(1)
