"""VBench in an environment of its own: a stand-in that speaks its interface, and the real one where
GLC_RAY_VBENCH_PYTHON names its python."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from glc_ray.evaluation import evaluate_videos
from glc_ray.evaluation.scoring import Video
from glc_ray.evaluation.vbench import (
    VBenchError,
    check_python,
    dimensions,
    export,
    read_results,
    run_vbench,
)
from glc_ray.protocols import UserError
from tests.media.clips import encode, moving_texture

REAL = os.environ.get("GLC_RAY_VBENCH_PYTHON", "")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    encode([moving_texture(9)], path)
    return path


@pytest.fixture
def stub(tmp_path: Path) -> str:
    """The python of an environment that has the stand-in, which has no torch."""
    site = tmp_path / "site"
    (site / "vbench").mkdir(parents=True)
    shutil.copy(Path(__file__).with_name("vbench_stub.py"), site / "vbench" / "__init__.py")
    (site / "torch.py").write_text(
        "class cuda: is_available = staticmethod(lambda: False)\ndevice = str\n"
    )
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\ntest -z "$PYTHONPATH" || exit 9\n'
        f'PYTHONPATH={site} exec {sys.executable} "$@"\n'
    )
    program.chmod(0o755)
    return str(program)


def videos(clip: Path, *prompts: str) -> list[Video]:
    return [Video(str(at), str(clip), prompt) for at, prompt in enumerate(prompts)]


def test_folder_is_as_vbench_wants_it(clip: Path, tmp_path: Path):
    prompts = ("a red ball", "a/b", "a red ball", "A RED BALL", "a-b", 'it\'s $(x) "y"', "x" * 300)
    found = export(videos(clip, *prompts), tmp_path / "videos")
    names = sorted(path.name for path in found.folder.iterdir())
    assert names == sorted(found.videos)
    # Prompts that are one name somewhere count together: none takes another's place.
    assert {"a red ball-0.mp4", "a red ball-1.mp4", "A RED BALL-2.mp4"} <= set(names)
    assert {"a-b-0.mp4", "a-b-1.mp4", "it's $(x) -y--0.mp4"} <= set(names)
    assert len(names) == len(prompts)
    assert {path.resolve() for path in found.folder.iterdir()} == {clip}


def test_folder_with_anything_in_it_is_refused(clip: Path, tmp_path: Path):
    (tmp_path / "info.json").write_text("{}")
    with pytest.raises(UserError, match=r"--vbench-export .*: has files in it, and VBench would"):
        export(videos(clip, "a"), tmp_path)


def test_other_formats_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"clip\.webm: VBench reads \.mp4 alone"):
        export([Video("0", "clip.webm", "a")], tmp_path / "videos")


def test_results_are_read_back(clip: Path, tmp_path: Path, stub: str, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "must not reach it")
    exported = export(videos(clip, "a red ball", "a box", "a red ball"), tmp_path / "videos")
    asked = ["temporal_flickering", "imaging_quality", "dynamic_degree"]
    found = [(video.id, name, value) for video, name, value in run_vbench(exported, stub, asked)]
    assert found == [
        ("0", "vbench.temporal_flickering", 0.1),
        ("1", "vbench.temporal_flickering", 0.05),
        ("2", "vbench.temporal_flickering", 0.1),
        # VBench gives it in percent of a video, and as a share of all.
        ("0", "vbench.imaging_quality", 0.1),
        ("1", "vbench.imaging_quality", 0.05),
        ("2", "vbench.imaging_quality", 0.1),
        ("0", "vbench.dynamic_degree", 1.0),
        ("1", "vbench.dynamic_degree", 1.0),
        ("2", "vbench.dynamic_degree", 1.0),
    ]


@pytest.mark.parametrize(
    ("dimension", "text"),
    [
        ("temporal_style", r"failed with exit code 7; it said:\nthe first line\nwhat VBench says"),
        ("human_action", r"wrote no results; it said:\nthe first line\nwhat VBench says"),
        ("aesthetic_quality", r"has no aesthetic_quality of a-\d\.mp4 .*: it passes over videos"),
        ("motion_smoothness", r"has no motion_smoothness of a-0\.mp4"),
    ],
)
def test_what_vbench_leaves_out_is_an_error(
    clip: Path, tmp_path: Path, stub: str, dimension: str, text: str
):
    exported = export(videos(clip, "a", "a"), tmp_path / "videos")
    with pytest.raises(VBenchError, match=text):
        list(run_vbench(exported, stub, [dimension]))


@pytest.mark.parametrize("data", [b"", b"{}", b'{"temporal_flickering": [1]}', b"[]"])
def test_other_results_are_an_error(clip: Path, tmp_path: Path, data: bytes):
    exported = export(videos(clip, "a"), tmp_path / "videos")
    with pytest.raises(VBenchError, match="results of temporal_flickering cannot be read"):
        list(read_results(data, exported, ["temporal_flickering"]))


def test_dimensions_that_need_vbenchs_own_prompts_are_refused():
    assert dimensions(["drift", "vbench.imaging_quality"]) == ["imaging_quality"]
    with pytest.raises(UserError, match=r"--scores vbench\.color: VBench scores videos of any"):
        dimensions(["vbench.color"])
    with pytest.raises(UserError, match="--vbench-python /no/python: no such program"):
        check_python("/no/python")


@pytest.mark.slow
@pytest.mark.skipif(not REAL, reason="GLC_RAY_VBENCH_PYTHON names no python that has VBench")
def test_real_vbench_says_the_same(tmp_path: Path):
    """Of a file that OpenCV and the file itself say is BT.601, to the last digits of float32."""
    import av

    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"crf": "18"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame in moving_texture(17):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    mine = list(evaluate_videos([("0", path, "a")], ["temporal_flickering"]))
    exported = export(videos(path, "a 'quoted' $HOME prompt"), tmp_path / "videos")
    (theirs,) = run_vbench(exported, check_python(REAL), ["temporal_flickering"])
    assert theirs[2] == pytest.approx(mine[0][2], abs=1e-7)
