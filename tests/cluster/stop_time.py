"""How long a render takes from SIGTERM to its end: ``python -m tests.cluster.stop_time``.

Several videos are in flight on a cluster that runs already, as under `ray job submit`, which kills
three seconds after it asked to end.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from glc_ray.store import run_status
from glc_ray.store.output import Output
from tests.cluster.nodes import Nodes, nodes


def start(
    cluster: Nodes, folder: Path, num_videos: int, options: list[str]
) -> subprocess.Popen[str]:
    """Render a catalog; its last words come through a pipe."""
    rows = [{"prompt": "a red ball", "seed": seed} for seed in range(num_videos)]
    catalog = folder / "catalog.jsonl"
    catalog.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = [sys.executable, "-m", "glc_ray.render", "--catalog", str(catalog), *options]
    command += ["--set", f"resources.coordinators.count={num_videos}"]
    command += ["--output", str(folder / "out"), "--address", cluster.address]
    return subprocess.Popen(
        command,
        env=cluster.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def checkpoints(output: Path) -> dict[str, list[Path]]:
    """Stored states of each video in work, by its id."""
    found: dict[str, list[Path]] = {}
    for path in sorted(output.glob(".work/*/checkpoints/*.safetensors")):
        found.setdefault(path.parts[-3], []).append(path)
    return found


def num_begun(output: Path) -> int:
    """Videos that have done a step."""
    status = run_status.read(Output(str(output)))
    return sum(video.steps_done > 0 for video in status.in_work) if status is not None else 0


def main() -> None:
    """Print a line a stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--videos", type=int, default=4)
    parser.add_argument("--stops", type=int, default=3)
    parser.add_argument("options", nargs="*", help="of render, such as --num-frames 289")
    asked = parser.parse_args()
    slowest = 0.0
    with nodes(1) as cluster:
        for number in range(asked.stops):
            with tempfile.TemporaryDirectory(prefix="stop-") as name:
                folder = Path(name)
                process = start(cluster, folder, asked.videos, asked.options)
                while num_begun(folder / "out") < asked.videos and process.poll() is None:
                    time.sleep(0.1)
                # In the middle of a step, of a different one every time.
                time.sleep(1 + 0.37 * number)
                began = time.time()
                process.send_signal(signal.SIGTERM)
                words = process.communicate(timeout=120)[1]
                took = time.time() - began
                slowest = max(slowest, took)
                stored = checkpoints(folder / "out").values()
                fresh = [max(path.stat().st_mtime for path in paths) - began for paths in stored]
                status = run_status.read(Output(str(folder / "out")))
                at = [round(seconds, 2) for seconds in sorted(fresh)]
                told = status.updated_at - began if status is not None else None
                print(f"exit code {process.returncode} after {took:.2f} s; checkpoints at {at} s")
                print(f"  run told its end at {told:.2f} s: {words.splitlines()[-1]}", flush=True)
    print(f"slowest of {asked.stops}: {slowest:.2f} s")


if __name__ == "__main__":
    main()
