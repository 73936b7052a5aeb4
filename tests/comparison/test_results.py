"""From finished videos to tables, figures and pictures."""

from __future__ import annotations

import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console

from glc_ray.catalog import CatalogJobs
from glc_ray.comparison import page, plot, results, table
from glc_ray.comparison.design import design, read_prompts
from glc_ray.comparison.results import Results
from glc_ray.comparison.scores import in_order, score_of
from glc_ray.comparison.statistics import Estimate
from glc_ray.comparison.table import Row, difference_text, mean_text
from glc_ray.comparison.values import Scorer
from glc_ray.comparison.variants import parse_variants
from glc_ray.evaluation import evaluate_videos
from glc_ray.protocols import UserError
from glc_ray.store import manifest
from glc_ray.store.catalog import read_rows
from glc_ray.store.manifest import ManifestWriter
from glc_ray.store.output import Output
from tests.comparison.outputs import NUM_FRAMES, finish, planned
from tests.media.clips import encode, moving_texture, read

WORDS = ("change", "sharpness")


@pytest.fixture
def place(tmp_path: Path) -> Output:
    return Output(str(tmp_path / "out"))


def test_the_catalog_asks_for_the_videos_that_are_compared(
    tiny_pipeline: Path, place: Output
) -> None:
    prompts = ("a ball: red / blue", "a box")
    plan, cells = planned(tiny_pipeline, methods="ablation", prompts=prompts, seeds=(0, 7))
    place.prepare()
    plan.write(place, results.CATALOG)
    jobs = CatalogJobs(str(tiny_pipeline))
    entries = [job for row in read_rows(place.uri(results.CATALOG)) for job in jobs.jobs(row)]
    assert [entry.name for entry in entries] == [cell.name for cell in cells]
    assert [entry.job.specification_hash[:16] for entry in entries] == [cell.id for cell in cells]
    assert len({cell.name for cell in cells}) == len(cells) == 2 * 2 * 12
    assert all(entry.job.seed == cell.case.seed for entry, cell in zip(entries, cells, strict=True))


def test_a_variant_that_cannot_be_rendered_is_named(tiny_pipeline: Path) -> None:
    with pytest.raises(
        UserError, match=r"--methods glc\+stride=9: glc.stride = 9: must be between"
    ):
        planned(tiny_pipeline, methods="glc,glc+stride=9")
    with pytest.raises(UserError, match=r"--methods glc\+vmrc=1: unknown key 'glc.vmrc'"):
        planned(tiny_pipeline, methods="glc+vmrc=1")


def test_prompts_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("# toyworld\n\n a red ball \na blue box\n")
    assert read_prompts(str(file)) == ["a red ball", "a blue box"]
    file.write_text("# nothing\n")
    with pytest.raises(UserError, match=r"prompts.txt: has no prompts; write one a line"):
        read_prompts(str(file))
    with pytest.raises(UserError, match=r"--prompts-file .*: cannot be read \(No such file"):
        read_prompts(str(tmp_path / "none.txt"))
    with pytest.raises(UserError, match="--prompt: says what the videos show, and is missing"):
        design(parse_variants(["glc"]), [], [0], [33])


def test_scores_are_those_of_evaluate_and_are_sought_once(
    tiny_pipeline: Path, place: Output, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, cells = planned(tiny_pipeline)
    finish(place, tmp_path, cells)
    rows = Results(place, plan, cells).rows(Scorer(WORDS))
    files = [(cell.id, place.uri(f"videos/{cell.name}.mp4"), "") for cell in cells]
    expected = {(id, name): value for id, name, value in evaluate_videos(files, WORDS)}
    for row in rows:
        if row.score.group == "cost":
            continue
        (cell,) = [cell for cell in cells if cell.variant.name == row.variant]
        if row.score.name == "drift":
            # Measured from a beginning that only the output knows the length of.
            continue
        assert row.value is not None
        assert row.value.mean == expected[cell.id, row.score.name]
    cost = {(row.variant, row.score.name): row.value.mean for row in rows if row.value}
    assert cost["glc", "forwards"] == 11
    assert cost["direct", "forwards"] == 12

    def read_again(*_: object) -> None:
        raise AssertionError("it is scored already")

    monkeypatch.setattr("glc_ray.comparison.values.evaluate_one", read_again)
    assert Results(place, plan, cells).rows(Scorer(WORDS)) == rows
    long = pq.read_table(io.BytesIO(place.read_bytes(results.VALUES) or b"")).to_pylist()
    assert {row["method"] for row in long} == {"glc", "direct"}


def test_what_nobody_counted_has_no_cost(
    tiny_pipeline: Path, place: Output, tmp_path: Path
) -> None:
    """Latents that were given to the run, or were stored by a version that kept nothing of it."""
    plan, cells = planned(tiny_pipeline, seeds=(0, 1))
    finish(place, tmp_path, cells)
    with ManifestWriter(place) as writer:
        counted = {row.id: row for row in manifest.read(place)}
        writer.add(replace(counted[cells[0].id], num_windows=0, anchor_forwards=0, forward_s=0.0))
    rows = Results(place, plan, cells).rows(Scorer(WORDS))
    (forwards,) = [
        row for row in rows if row.score.name == "forwards" and row.variant == cells[0].variant.name
    ]
    assert forwards.value is not None
    assert forwards.value.num_videos == 1
    assert forwards.value.mean >= 11


def test_what_is_missing_is_left_out(tiny_pipeline: Path, place: Output, tmp_path: Path) -> None:
    plan, cells = planned(tiny_pipeline, seeds=(0, 1))
    finish(place, tmp_path, cells[:3])
    found = Results(place, plan, cells)
    (row,) = [
        row for row in found.rows(Scorer(WORDS)) if row.score.name == "drift" and row.difference
    ]
    assert row.value is not None
    assert (row.variant, row.value.num_videos, row.difference.num_videos) == ("direct", 1, 1)
    assert [one.case.seed for one in found.draw(columns=3, cases=None)] == [0]


def test_a_case_whose_video_was_cut_short_is_not_drawn(
    tiny_pipeline: Path, place: Output, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan, cells = planned(tiny_pipeline, methods="glc", seeds=(0, 1))
    finish(place, tmp_path, cells)
    encode([moving_texture(20)], Path(place.uri(f"videos/{cells[0].name}.mp4")))
    found = Results(place, plan, cells)
    assert [one.case.seed for one in found.draw(columns=3, cases=None)] == [1]
    assert f"has 20 frames, of {NUM_FRAMES} in the manifest" in caplog.text
    rows = found.rows(Scorer(WORDS))
    assert {row.value.num_videos for row in rows if row.value} == {1}


def test_seconds_of_a_shared_machine_get_no_verdict() -> None:
    assert {score_of(name).better for name in ("forwards", "forward_s", "denoise_s")} == {0}


def test_pictures_show_the_frames_of_every_video(
    tiny_pipeline: Path, place: Output, tmp_path: Path
) -> None:
    plan, cells = planned(tiny_pipeline, methods="glc,direct,freenoise")
    shown = finish(place, tmp_path, cells)
    found = Results(place, plan, cells)
    (made,) = found.draw(columns=4, cases=None)
    times, frames = read(Path(place.uri(made.video)))
    assert len(times) == NUM_FRAMES
    # Every video is somewhere in the picture, three times as large.
    for cell in cells:
        mean = shown[cell.id][20].mean()
        cell_size = (64 * 3, 96 * 3)
        places = [
            frames[20][y : y + cell_size[0], x : x + cell_size[1]].mean()
            for y in range(0, frames.shape[1] - cell_size[0] + 1, 2)
            for x in range(0, frames.shape[2] - cell_size[1] + 1, 2)
        ]
        assert min(abs(np.array(places) - mean)) < 2
    with Image.open(place.uri(made.strips)) as sheet:
        assert sheet.width > 4 * 288
        assert sheet.height > 3 * 192

    before = Path(place.uri(made.video)).stat().st_mtime_ns
    Results(place, plan, cells).draw(columns=4, cases=None)
    assert Path(place.uri(made.video)).stat().st_mtime_ns == before
    Results(place, plan, cells).draw(columns=5, cases=None)
    assert Path(place.uri(made.video)).stat().st_mtime_ns != before
    assert Results(place, plan, cells).draw(columns=5, cases=0) == []


def test_a_video_that_cannot_be_read_is_left_out(
    tiny_pipeline: Path, place: Output, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan, cells = planned(tiny_pipeline, seeds=(0, 1, 2))
    finish(place, tmp_path, cells)
    Path(place.uri(f"videos/{cells[0].name}.mp4")).write_bytes(b"not a video")
    encode([moving_texture(20)], Path(place.uri(f"videos/{cells[2].name}.mp4")))
    found = Results(place, plan, cells)
    rows = found.rows(Scorer(WORDS))
    found.store(rows, [])
    drawn = found.draw(columns=2, cases=None)
    found.store(rows, drawn)
    assert [one.case.seed for one in drawn] == [2]
    assert "has 20 frames, of 33 in the manifest" in caplog.text
    assert "not drawn" in caplog.text
    text = (place.read_bytes(results.PAGE) or b"").decode()
    assert "4 of 6 videos are finished and scored." in text
    # The means of the two are of different videos, and say so.
    assert "in brackets: of so few videos" in text
    assert re.search(r"\| glc \| [0-9.]+ \(1\) \|", text)
    assert len(list(place.list("comparison/strips"))) == 1


def test_one_method_has_a_page_without_differences(
    tiny_pipeline: Path, place: Output, tmp_path: Path
) -> None:
    plan, cells = planned(tiny_pipeline, methods="glc")
    finish(place, tmp_path, cells)
    found = Results(place, plan, cells)
    rows = found.rows(Scorer(WORDS))
    found.store(rows, [])
    text = (place.read_bytes(results.PAGE) or b"").decode()
    assert "1 method on 1 prompt with 1 seed each" in text
    assert ".svg" not in text
    assert place.size("comparison/differences-33.svg") is None
    ET.fromstring(plot.svg(rows, "33 frames"))  # noqa: S314


def test_pictures_of_videos_that_were_rendered_again_are_drawn_again(
    tiny_pipeline: Path, place: Output, tmp_path: Path
) -> None:
    plan, cells = planned(tiny_pipeline)
    finish(place, tmp_path, cells)
    (made,) = Results(place, plan, cells).draw(columns=2, cases=None)
    video = Path(place.uri(made.video))

    def drawn_anew(**options: bool) -> bool:
        before = video.stat().st_mtime_ns
        Results(place, plan, cells, **options).draw(columns=2, cases=None)  # type: ignore[arg-type]
        return video.stat().st_mtime_ns != before

    assert not drawn_anew()
    assert drawn_anew(anew=True)
    assert not drawn_anew()
    finish(place, tmp_path, cells, finished_at=2e9)
    assert drawn_anew()


def test_what_is_stored(tiny_pipeline: Path, place: Output, tmp_path: Path) -> None:
    prompts = tuple(f"a *ball* <{number}>" for number in range(5))
    plan, cells = planned(tiny_pipeline, prompts=prompts)
    finish(place, tmp_path, cells)
    found = Results(place, plan, cells)
    rows = found.rows(Scorer(WORDS))
    found.store(rows, found.draw(columns=2, cases=1))
    text = (place.read_bytes(results.PAGE) or b"").decode()
    assert "2 methods on 5 prompts with 1 seed each, against glc." in text
    assert r"### a \*ball\* \<0\>: seed 0, 33 frames" in text
    for link in ("differences-33.svg", "../comparison/strips/a-ball-0-"):
        assert f"]({link}" in text
    parquet = pq.read_table(io.BytesIO(place.read_bytes(results.TABLE) or b""))
    whole = (place.read_bytes("comparison/table.csv") or b"").decode()
    assert len(list(csv.DictReader(io.StringIO(whole)))) == parquet.num_rows == len(rows)
    ET.fromstring(place.read_bytes("comparison/differences-33.svg") or b"")  # noqa: S314
    drawn = json.loads(place.read_bytes("comparison/drawn.json") or b"")
    assert len(drawn) == 1


def row(
    name: str, mean: float, low: float | None, high: float | None, *, variant: str = "direct"
) -> Row:
    value = Estimate(1.0, None, None, 9, "")
    return Row(145, variant, score_of(name), value, Estimate(mean, low, high, 9, "prompts"))


@pytest.mark.parametrize(
    ("name", "low", "high", "verdict"),
    [
        ("toyworld.shape", 0.1, 0.3, "better"),
        ("toyworld.shape", -0.3, -0.1, "worse"),
        ("toyworld.shape", -0.1, 0.1, ""),
        ("drift", 0.1, 0.3, "worse"),
        ("drift", -0.3, -0.1, "better"),
        ("motion_blocks", 0.1, 0.3, ""),
        ("drift", None, None, ""),
    ],
)
def test_verdicts_know_which_way_is_better(
    name: str, low: float | None, high: float | None, verdict: str
) -> None:
    assert row(name, 0.2, low, high).verdict == verdict


def test_numbers_in_words() -> None:
    assert difference_text(row("drift", -0.0124, -0.02, -0.004)) == "−0.012 [−0.020, −0.004]"
    assert difference_text(row("drift", -0.0001, None, None)) == "0.000"
    assert mean_text(row("drift", 0.1, 0.05, 0.2)) == "1.000 ▼"
    assert mean_text(row("drift", 0.1, 0.05, 0.2), most=10) == "1.000 (9) ▼"
    assert mean_text(Row(145, "glc", score_of("seam"), None, None)) == "–"


def test_the_summary_and_the_figure_leave_no_variant_out() -> None:
    rows = [
        Row(145, "glc", score_of("drift"), Estimate(1.0, None, None, 9, ""), None),
        row("drift", 0.2, 0.1, 0.3),
        row("drift", -0.2, -0.3, -0.1, variant="a<b"),
    ]
    assert table.summary(rows) == {
        "direct": {"better": [], "worse": ["drift"], "": []},
        "a<b": {"better": ["drift"], "worse": [], "": []},
    }
    figure = ET.fromstring(plot.svg(rows, "145 frames"))  # noqa: S314
    texts = [text.text for text in figure.iter("{http://www.w3.org/2000/svg}text")]
    assert {"direct", "a<b", "drift"} <= set(texts)


def test_scores_that_are_not_known_here_are_shown_before_the_cost() -> None:
    names = {"forwards", "vbench.imaging_quality", "drift", "toyworld.shape"}
    assert [score.name for score in in_order(names)] == [
        "toyworld.shape",
        "drift",
        "vbench.imaging_quality",
        "forwards",
    ]


def test_the_terminal_has_as_many_columns_as_fit() -> None:
    rows = [row(name, 0.2, 0.1, 0.3) for name in ("drift", "seam", "sharpness", "motion_blocks")]
    with (console := Console(width=60, record=True, file=io.StringIO())):
        page.show(rows, [145], console)
    text = console.export_text()
    assert "145 frames" in text
    assert max(map(len, text.splitlines())) <= 60
    assert "interval of the paired difference" in " ".join(text.split())
