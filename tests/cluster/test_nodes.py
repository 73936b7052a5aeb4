"""Several nodes: a submitted catalog outlives one of them. More of it: ``tests.cluster.chaos``."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glc_ray.store import manifest
from glc_ray.store.output import Output
from tests.cluster.nodes import RAY, Nodes, nodes

STEPS = 200


def submit(cluster: Nodes, arguments: list[str]) -> subprocess.Popen[str]:
    command = [str(RAY), "job", "submit", "--address", cluster.dashboard, "--"]
    command += [sys.executable, "-m", "glc_ray.render", *arguments]
    return subprocess.Popen(
        command,
        env=cluster.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_submitted_catalog_outlives_a_node(tiny_pipeline: Path, tmp_path: Path) -> None:
    catalog, output = tmp_path / "catalog.jsonl", tmp_path / "out"
    rows = [{"name": name, "prompt": "a red ball", "seed": i} for i, name in enumerate("ab")]
    catalog.write_text("\n".join(map(json.dumps, rows)))
    arguments = ["--catalog", str(catalog), "--pipeline", str(tiny_pipeline), "--workers", "3"]
    arguments += ["--steps", str(STEPS), "--output", str(output)]
    with nodes(2) as cluster:
        job = submit(cluster, arguments)
        deadline = time.monotonic() + 240
        while not list(output.glob(".work/*/checkpoints/*.safetensors")):
            assert job.poll() is None, job.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.1)
        raylet = cluster.raylet(1)
        assert raylet is not None
        os.kill(raylet.pid, signal.SIGKILL)
        words, _ = job.communicate(timeout=400)
        if job.returncode != 0:
            # Where the driver itself was on that node, the same command goes on.
            again = submit(cluster, [*arguments, "--wait"])
            words, _ = again.communicate(timeout=400)
            assert again.returncode == 0, words
    assert {row.name: row.status for row in manifest.read(Output(str(output)))} == {
        "a": "done",
        "b": "done",
    }, words
