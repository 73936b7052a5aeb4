"""Kills at random moments: ``python -m tests.cluster.chaos --seeds 0 30``.

Every seed renders the same catalog on two nodes, kills one thing at a moment of its own, runs the
same command again if the run did not survive, and holds every video against the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import psutil

from glc_ray.store import manifest
from glc_ray.store.output import Output
from tests.cluster.nodes import Nodes, nodes

TARGETS = (
    "Denoiser",
    "Coordinator",
    "DecodeEncodeStage",
    "raylet",
    "driver",
    "Graph",
    "_Pool",
    "_Board",
)
PROMPTS = (
    "a red ball rolls over the meadow at day",
    "a blue box slides over the sea at night",
)
OPTIONS = ("--num-frames", "41", "--steps", "8", "--workers", "2")
RUN_TIMEOUT_S = 600


@dataclass
class Outcome:
    """What one seed did."""

    seed: int
    target: str
    after_s: float
    reruns: int
    stored_steps: dict[str, int]
    """Steps that were stored when it struck, by video."""
    resumed_steps: dict[str, int]
    """Where they went on, by video."""
    problems: list[str]


def catalog(folder: Path) -> Path:
    """The catalog that every seed renders."""
    path = folder / "catalog.jsonl"
    rows = [{"name": f"video-{i}", "prompt": text, "seed": i} for i, text in enumerate(PROMPTS)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def command(cluster: Nodes, rows: Path, output: Path) -> list[str]:
    """The same one every time."""
    start = [sys.executable, "-m", "glc_ray.render", "--catalog", str(rows)]
    return [*start, *OPTIONS, "--output", str(output), "--address", cluster.address]


def videos(output: Path) -> dict[str, str]:
    """Digest of each finished video, by name."""
    return {
        path.stem: sha256(path.read_bytes()).hexdigest()
        for path in sorted((output / "videos").glob("*.mp4"))
    }


def stored_steps(output: Path) -> dict[str, int]:
    """Newest checkpoint of each video in work, by its id."""
    steps: dict[str, int] = {}
    for path in output.glob(".work/*/checkpoints/*.safetensors"):
        video, step = path.parts[-3], int(path.name.split(".")[0])
        steps[video] = max(step, steps.get(video, 0))
    return steps


def strike(
    cluster: Nodes, driver: subprocess.Popen[bytes], target: str, chance: random.Random
) -> bool:
    """Kill one of its kind; False where there is none."""
    if target == "driver":
        driver.kill()
        return True
    if target == "raylet":
        # Not the head's: that is the cluster itself.
        node = chance.randrange(1, len(cluster.processes))
        raylet = cluster.raylet(node)
        victims = [raylet] if raylet is not None else []
    else:
        victims = cluster.actors(target)
    if not victims:
        return False
    try:
        chance.choice(victims).send_signal(signal.SIGKILL)
    except psutil.NoSuchProcess:
        return False
    return True


def render(cluster: Nodes, rows: Path, output: Path) -> subprocess.Popen[bytes]:
    """Start the command; its words go to a file beside the output."""
    log = output.with_suffix(".log").open("ab")
    return subprocess.Popen(
        command(cluster, rows, output), env=cluster.environment, stdout=log, stderr=log
    )


def one(
    seed: int, cluster: Nodes, folder: Path, expected: dict[str, str], duration_s: float
) -> Outcome:
    """Render, strike, and render again where need be."""
    chance = random.Random(seed)  # noqa: S311
    target = TARGETS[seed % len(TARGETS)]
    after_s = chance.uniform(0, duration_s)
    outcome = Outcome(seed, target, after_s, 0, {}, {}, [])
    rows, output = catalog(folder), folder / f"seed-{seed}"
    driver = render(cluster, rows, output)
    time.sleep(after_s)
    deadline = time.monotonic() + 60
    while driver.poll() is None and time.monotonic() < deadline:
        outcome.stored_steps = stored_steps(output)
        if strike(cluster, driver, target, chance):
            break
        time.sleep(0.2)
    while (code := driver.wait(RUN_TIMEOUT_S)) != 0:
        outcome.reruns += 1
        if outcome.reruns > 1:
            outcome.problems.append(f"exit code {code} after a re-run")
            break
        driver = render(cluster, rows, output)
    found = videos(output)
    if found != expected:
        wrong = {name for name in expected.keys() | found if expected.get(name) != found.get(name)}
        outcome.problems.append(f"other videos: {sorted(wrong)}")
    rows_found = manifest.read(Output(str(output)))
    if sorted(row.name for row in rows_found) != sorted(expected):
        outcome.problems.append(f"manifest: {[(row.name, row.status) for row in rows_found]}")
    for row in rows_found:
        if row.resumed_at_step:
            outcome.resumed_steps[row.id] = row.resumed_at_step
            # Of what was stored nothing is done again.
            if row.resumed_at_step < outcome.stored_steps.get(row.id, 0):
                outcome.problems.append(f"{row.name}: went on at step {row.resumed_at_step}")
    return outcome


def main() -> None:
    """Print a line a seed, and fail if any went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 30), metavar=("FROM", "TO"))
    seeds = parser.parse_args().seeds
    bad = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        with nodes(2) as cluster:
            start = time.monotonic()
            code = render(cluster, catalog(folder), folder / "undisturbed").wait(RUN_TIMEOUT_S)
            duration_s = time.monotonic() - start
            expected = videos(folder / "undisturbed")
            log = (folder / "undisturbed.log").read_text()
            assert code == 0, log
            assert len(expected) == len(PROMPTS), log
            print(f"undisturbed: {duration_s:.0f} s", flush=True)
            for seed in range(*seeds):
                outcome = one(seed, cluster, folder, expected, duration_s)
                print(json.dumps(outcome.__dict__), flush=True)
                if outcome.problems:
                    bad += 1
                    print((folder / f"seed-{seed}.log").read_text(), flush=True)
                if outcome.target == "raylet":
                    cluster.replace(1)
    print(f"{seeds[1] - seeds[0]} runs, {bad} with problems")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
