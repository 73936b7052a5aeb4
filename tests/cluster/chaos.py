"""Kills at random moments: ``python -m tests.cluster.chaos --seeds 0 32``.

Every seed renders the same catalog on two nodes, kills one thing at a moment of its own, runs the
same command again if the run did not survive, and holds every video against the undisturbed run.

A moment is a place in the work (a stored step, a segment that is begun, a video that is done) and a
random time after it, since most of the seconds of so small a run are its start.
"""

from __future__ import annotations

import argparse
import glob
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
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
    "a blue box floats over the sea at night",
)
NUM_STEPS = 12
OPTIONS = (
    *("--num-frames", "41", "--steps", str(NUM_STEPS), "--workers", "2"),
    # Steps take less than a second here: one may be stored after each of them, whatever it takes.
    *("--set", "resources.checkpoint.max_share=1"),
    *("--set", "decode.segment=4"),
)
RUN_TIMEOUT_S = 600
_POLL_S = 0.02


@dataclass
class Work:
    """What of a run's work is in its output, by the ids of its videos."""

    steps: dict[str, int] = field(default_factory=dict)
    """Newest stored step."""
    segments: set[tuple[str, str]] = field(default_factory=set)
    """(video, segment) that are in a ledger."""
    begun: set[tuple[str, str, str]] = field(default_factory=set)
    """(video, segment, attempt) that were claimed."""
    num_videos: int = 0
    """That are done."""

    @classmethod
    def of(cls, output: Path) -> Work:
        """What is there now."""
        work = cls(num_videos=len(_files(output, "videos/*.mp4")))
        for path in _files(output, ".work/*/checkpoints/*.safetensors"):
            video, step = path.parts[-3], int(path.name.split(".")[0])
            work.steps[video] = max(step, work.steps.get(video, 0))
        for path in _files(output, ".work/*/segments/*/*.json"):
            work.segments.add((path.parts[-4], path.name.split(".")[0]))
        for path in _files(output, ".work/*/segments/*/*.claim"):
            segment, attempt, _, _ = path.name.split(".")
            work.begun.add((path.parts[-4], segment, attempt))
        return work


def _files(folder: Path, pattern: str) -> list[Path]:
    """What is there, of folders that may leave while they are looked through."""
    # Path.glob raises FileNotFoundError then.
    return [folder / name for name in glob.glob(pattern, root_dir=folder)]  # noqa: PTH207


@dataclass(frozen=True)
class Moment:
    """When to strike."""

    where: str
    """start, step, segment or end."""
    step: int
    """That a video has stored, where it is a step."""
    after_s: float
    """Seconds later."""

    @classmethod
    def draw(cls, target: str, chance: random.Random) -> Moment:
        """One that ``target`` lives to see, mostly in the middle of a video."""
        places = ["segment"] if target == "DecodeEncodeStage" else ["step"] * 5 + ["segment"]
        where = chance.choice([*places, "start", "end"])
        longest_s = 10.0 if where == "start" else 1.0
        return cls(where, chance.randrange(1, NUM_STEPS), chance.uniform(0, longest_s))

    def has_come(self, work: Work) -> bool:
        """Whether the work has come to the place."""
        if self.where == "step":
            # A poll may miss a step, or the last ones of a video that is being decoded already.
            return max(work.steps.values(), default=0) >= self.step or bool(work.begun)
        if self.where == "segment":
            return bool(work.begun) or work.num_videos > 0
        return self.where == "start" or work.num_videos > 0


@dataclass
class Outcome:
    """What one seed did."""

    seed: int
    target: str
    moment: Moment
    struck: bool = False
    reruns: int = 0
    stored_steps: dict[str, int] = field(default_factory=dict)
    """When it struck, by video."""
    stored_segments: int = 0
    """When it struck."""
    resumed_steps: dict[str, int] = field(default_factory=dict)
    """Where videos went on, by video."""
    problems: list[str] = field(default_factory=list)


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


def one(seed: int, cluster: Nodes, folder: Path, expected: dict[str, str]) -> Outcome:
    """Render, strike, and render again where need be."""
    chance = random.Random(seed)  # noqa: S311
    target = TARGETS[seed % len(TARGETS)]
    outcome = Outcome(seed, target, Moment.draw(target, chance))
    rows, output = catalog(folder), folder / f"seed-{seed}"
    driver = render(cluster, rows, output)
    _watch(driver, lambda: outcome.moment.has_come(Work.of(output)))
    time.sleep(outcome.moment.after_s)
    before = Work.of(output)
    outcome.stored_steps, outcome.stored_segments = before.steps, len(before.segments)
    outcome.struck = _watch(driver, lambda: strike(cluster, driver, target, chance))
    again: set[tuple[str, str, str]] = set()
    while (code := _wait(driver, output, again)) != 0:
        outcome.reruns += 1
        if outcome.reruns > 1:
            outcome.problems.append(f"exit code {code} after a re-run")
            break
        driver = render(cluster, rows, output)
    _check(outcome, output, expected)
    if twice := {begun for begun in again - before.begun if begun[:2] in before.segments}:
        outcome.problems.append(f"made again, though they were stored: {sorted(twice)}")
    return outcome


def _watch(driver: subprocess.Popen[bytes], condition: Callable[[], bool]) -> bool:
    """Wait for ``condition``; False if the run ended before."""
    while driver.poll() is None:
        if condition():
            return True
        time.sleep(_POLL_S)
    return False


def _wait(driver: subprocess.Popen[bytes], output: Path, begun: set[tuple[str, str, str]]) -> int:
    """Wait for a run's exit code; adds the segments that it is seen to begin."""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while driver.poll() is None:
        begun |= Work.of(output).begun
        if time.monotonic() > deadline:
            driver.kill()
        time.sleep(_POLL_S)
    return driver.returncode


def _check(outcome: Outcome, output: Path, expected: dict[str, str]) -> None:
    """Hold what a run left against the undisturbed one."""
    found = videos(output)
    if found != expected:
        wrong = {name for name in expected.keys() | found if expected.get(name) != found.get(name)}
        outcome.problems.append(f"other videos: {sorted(wrong)}")
    rows = manifest.read(Output(str(output)))
    if sorted(row.name for row in rows) != sorted(expected):
        outcome.problems.append(f"manifest: {[(row.name, row.status) for row in rows]}")
    for row in rows:
        if row.resumed_at_step:
            outcome.resumed_steps[row.id] = row.resumed_at_step
            # Of what was stored nothing is done again.
            if row.resumed_at_step < outcome.stored_steps.get(row.id, 0):
                outcome.problems.append(f"{row.name}: went on at step {row.resumed_at_step}")


def main() -> None:
    """Print a line a seed, and fail if any went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs=2, type=int, default=(0, 32), metavar=("FROM", "TO"))
    seeds = parser.parse_args().seeds
    bad = 0
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        with nodes(2) as cluster:
            start = time.monotonic()
            code = render(cluster, catalog(folder), folder / "undisturbed").wait(RUN_TIMEOUT_S)
            expected = videos(folder / "undisturbed")
            log = (folder / "undisturbed.log").read_text()
            assert code == 0, log
            assert len(expected) == len(PROMPTS), log
            print(f"undisturbed: {time.monotonic() - start:.0f} s", flush=True)
            for seed in range(*seeds):
                outcome = one(seed, cluster, folder, expected)
                print(json.dumps(asdict(outcome)), flush=True)
                if outcome.problems:
                    bad += 1
                    print((folder / f"seed-{seed}.log").read_text(), flush=True)
                if outcome.target == "raylet":
                    cluster.replace(1)
    print(f"{seeds[1] - seeds[0]} runs, {bad} with problems")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
