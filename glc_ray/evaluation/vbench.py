"""VBench itself: its package in an environment of its own, which the user names.

A folder is filled as it wants it, ``{prompt}-{index}.mp4`` and nothing else, for whatever else lies
there turns its results into NaN; ``vbench_program`` runs there, and the JSON that VBench writes is
read back. Scores are called ``vbench.DIMENSION``.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from glc_ray.evaluation.scoring import Video
from glc_ray.foreign import from_json
from glc_ray.names import clash_key, vbench_name
from glc_ray.protocols import UserError
from glc_ray.store.output import Output
from glc_ray.store.scratch import scratch_folder
from glc_ray.store.storage import expanded

PREFIX = "vbench."
DIMENSIONS = (
    "temporal_flickering",
    "motion_smoothness",
    "subject_consistency",
    "background_consistency",
    "dynamic_degree",
    "imaging_quality",
    "aesthetic_quality",
    "overall_consistency",
    "temporal_style",
    "human_action",
)
"""Those that VBench offers for prompts that are not its own."""
_PERCENT = ("imaging_quality",)
"""Those that VBench gives of a video in percent, and of all of them as a share."""
_NAME = "glc_ray"
_LAST_LINES = 5


class VBenchError(RuntimeError):
    """VBench failed, or did not score a video; the message ends with its last lines."""


@dataclass(frozen=True)
class Exported:
    """A folder as VBench wants it."""

    folder: Path
    videos: dict[str, Video]
    """By file name."""


def dimensions(words: Sequence[str]) -> list[str]:
    """VBench's dimensions among names of scores.

    Raises:
        UserError: it has no such one, or not for prompts of one's own.
    """
    asked = [word.removeprefix(PREFIX) for word in words if word.startswith(PREFIX)]
    for name in asked:
        if name not in DIMENSIONS:
            raise UserError(
                f"--scores {PREFIX}{name}: VBench scores videos of any prompts by "
                f"{', '.join(DIMENSIONS)}"
            )
    return list(dict.fromkeys(asked))


def check_python(python: str) -> str:
    """The program of ``--vbench-python``, found.

    Raises:
        UserError: there is none.
    """
    found = shutil.which(str(expanded(python)))
    if found is None:
        raise UserError(
            f"--vbench-python {python}: no such program; give the python of an environment that "
            "has VBench, such as /envs/vbench/bin/python (it needs one of its own: its package "
            "asks for numpy < 2)"
        )
    # Through a link that leads to another Python an environment would be lost.
    return os.path.abspath(found)  # noqa: PTH100


def check_export(videos: Sequence[Video], folder: Path | None) -> None:
    """Find out whether ``export`` can do it, before anything else is done.

    Raises:
        UserError: a video is not .mp4, or the folder, if one is given, has something in it, or is
            a file.
    """
    if folder and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(
            f"--vbench-export {folder}: has files in it, and VBench would read them; give an empty "
            "or a new folder"
        )
    for video in videos:
        if not video.path.lower().endswith(".mp4"):
            raise UserError(
                f"{video.path}: VBench reads .mp4 alone; render or convert it to that, or leave "
                "out --scores vbench.…"
            )


def export(videos: Sequence[Video], folder: Path) -> Exported:
    """Fill an empty folder with links to local videos, or copies of remote ones.

    Prompts count from 0 on, in order; a prompt that a file name cannot hold is changed in it.

    Raises:
        UserError: as ``check_export``.
    """
    check_export(videos, folder)
    folder.mkdir(parents=True, exist_ok=True)
    counts: Counter[str] = Counter()
    names = {}
    for video in videos:
        key = clash_key(vbench_name(video.prompt, 0))
        name = f"{vbench_name(video.prompt, counts[key])}.mp4"
        counts[key] += 1
        _place(video, folder / name)
        names[name] = video
    return Exported(folder, names)


def run_vbench(
    exported: Exported, python: str, asked: Sequence[str]
) -> Iterator[tuple[Video, str, float]]:
    """Run VBench on an exported folder; yields (video, score's name, value).

    Args:
        exported: the folder.
        python: of the environment that has VBench.
        asked: its dimensions; those with weights download them on their first use.

    Raises:
        VBenchError: it failed, or, after all others, a video has no score.
    """
    with scratch_folder() as place:
        results = Path(place) / "results"
        request = {
            "videos": str(exported.folder.resolve()),
            "results": str(results),
            "name": _NAME,
            "prompts": {name: video.prompt for name, video in exported.videos.items()},
            "dimensions": list(asked),
        }
        (Path(place) / "request.json").write_text(json.dumps(request), encoding="utf-8")
        # A copy: beside the original are modules of ours that its imports would find.
        source = files("glc_ray.evaluation") / "vbench_program.py"
        (Path(place) / "program.py").write_bytes(source.read_bytes())
        said = _run([python, "program.py", "request.json"], place)
        file = results / f"{_NAME}_eval_results.json"
        if not file.is_file():
            raise VBenchError(f"VBench wrote no results; it said:\n{said}")
        yield from read_results(file.read_bytes(), exported, asked)


def read_results(
    data: bytes, exported: Exported, asked: Sequence[str]
) -> Iterator[tuple[Video, str, float]]:
    """(video, score's name, value) of what VBench wrote.

    Raises:
        VBenchError: it is something else; or, after all others, a video has no score or none that
            is a number.
    """
    missing = []
    for dimension in asked:
        try:
            _, of_videos = from_json(data)[dimension]
            values = {Path(one["video_path"]).name: one["video_results"] for one in of_videos}
        except (ValueError, KeyError, TypeError) as error:
            raise VBenchError(
                f"VBench's results of {dimension} cannot be read: {error!r}"
            ) from None
        for name, video in exported.videos.items():
            value = _number(values.get(name))
            if value is None:
                missing.append(f"{dimension} of {name} ({video.path})")
            else:
                yield video, f"{PREFIX}{dimension}", value / (100 if dimension in _PERCENT else 1)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise VBenchError(
            f"VBench has no {missing[0]}{more}: it passes over videos that it cannot read; see "
            "whether another player shows it"
        )


def _number(value: Any) -> float | None:
    with suppress(TypeError, ValueError):
        if math.isfinite(number := float(value)):
            return number
    return None


def _run(command: list[str], folder: str) -> str:
    """Run a program in a folder; the last lines that it said."""
    # Its environment is another one: what leads Python into this one must not reach it.
    ours = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    log = Path(folder) / "log.txt"
    with log.open("wb") as stream:
        try:
            done = subprocess.run(  # noqa: S603 The user names the program.
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        except OSError as error:
            raise VBenchError(f"{command[0]} cannot be run: {error}") from None
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    last = "\n".join(said[-_LAST_LINES:]) or "(it said nothing)"
    if done.returncode != 0:
        raise VBenchError(f"VBench failed with exit code {done.returncode}; it said:\n{last}")
    return last


def _place(video: Video, target: Path) -> None:
    if not video.output:
        target.symlink_to(Path(video.path).resolve())
        return
    output = Output(video.output)
    if output.is_local:
        target.symlink_to(output.local_copy(video.path, target.parent))
        return
    with scratch_folder() as folder:
        shutil.move(output.local_copy(video.path, Path(folder)), target)
