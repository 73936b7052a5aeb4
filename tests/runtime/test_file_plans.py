"""Files of one run that differ, planned by one set of facts; segments that are tar files."""

from __future__ import annotations

import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import pytest

from glc_ray.config import PipelineSpec
from glc_ray.job import decode_plan
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.assembly import _unpacked
from glc_ray.runtime.file_plans import FilePlans


def spec(file: Path, **options: Any) -> PipelineSpec:
    shared = {"decode.segment": 2, "decode.warmup": 2, "resources.decoders.count": 2}
    own = {key.replace("__", "."): value for key, value in options.items()}
    return load_pipeline(str(file), (shared | own).items())


def test_each_file_has_its_own_plan_and_the_run_one_kind(tiny_pipeline: Path) -> None:
    first = spec(tiny_pipeline)
    plans = FilePlans(first, num_videos=1)
    assert plans.shared == decode_plan(first, 1)
    assert plans.shared.kind == "stretches"
    others = [
        spec(tiny_pipeline, video__num_frames=65),
        spec(tiny_pipeline, video__fps=24, encode__frames=[10, 12], encode__crop=[0, 0, 12, 8]),
    ]
    longer, part = (plans.of(other) for other in others)
    assert (longer.num_frames, longer.width, longer.height) == (65, 24, 16)
    assert sum(segment.num_frames for segment in longer.decode.segments) == 65
    assert len(longer.decode.stretches) == 2
    # One segment: nothing to share, but the actors are those of the run.
    assert (part.num_frames, part.width, part.height) == (2, 12, 8)
    assert [segment.index for segment in part.decode.segments] == [1]
    assert (part.decode.kind, len(part.decode.stretches)) == ("stretches", 1)


def test_plans_go_to_other_processes(tiny_pipeline: Path) -> None:
    pipeline = spec(tiny_pipeline)
    plans = FilePlans(pipeline)
    assert pickle.loads(pickle.dumps(plans)).of(pipeline) == plans.of(pipeline)  # noqa: S301


@pytest.mark.parametrize("name", ["../frame_000000.png", "/tmp/a/frame_000000.png"])  # noqa: S108
def test_nothing_of_a_tar_file_lands_outside_of_its_folder(tmp_path: Path, name: str) -> None:
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        frame = tarfile.TarInfo(name)
        frame.size = 5
        tar.addfile(frame, io.BytesIO(b"frame"))
        link = tarfile.TarInfo("frame_000001.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    (tmp_path / "inner").mkdir()
    folder = _unpacked(tmp_path / "0.tar", tmp_path / "inner" / "0")
    assert [path.name for path in folder.iterdir()] == ["frame_000000.png"]
    assert (folder / "frame_000000.png").read_bytes() == b"frame"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.tar", "inner"]
