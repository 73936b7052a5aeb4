"""The report's files: what they say, and that as few as can be are written."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from glc_ray import report as front_door
from glc_ray.report_page import data_files
from glc_ray.report_page import report as report_module
from glc_ray.report_page.page import page
from glc_ray.report_page.report import Report
from glc_ray.report_page.rows import curve, page_id, page_row
from glc_ray.store.manifest import VideoRecord
from glc_ray.store.output import Output
from glc_ray.store.record import outdated_record
from glc_ray.store.run_status import RunStatus
from tests.report_page.outputs import job, many, record, store_rows, store_video


def read(output: Output, path: str) -> Any:
    """What a script of data hands over."""
    text = (output.read_bytes(f"report/data/{path}") or b"").decode("ascii")
    match = re.fullmatch(r"glcReport\.(\w+)\((.*)\);\n", text, re.DOTALL)
    assert match, text
    return json.loads(match[2])


def rows(output: Output) -> dict[str, Any]:
    """All rows by id, as a browser would find them."""
    index = read(output, "index.js")
    found: dict[str, Any] = {}
    for file, (count, _, counts) in enumerate(index["files"]):
        some = read(output, f"rows-{file:05d}.js")["rows"]
        assert len(some) == count == sum(counts.values())
        found |= {row["id"]: row for row in some}
    assert len(found) == index["num_rows"] == sum(index["counts"].values())
    return found


def synced(output: Output, **options: bool) -> Report:
    report = Report(output)
    report.sync(**options)
    report.write(None)
    return report


def versions(output: Output) -> dict[str, float]:
    return {file.path: file.modified_s for file in output.list("report")}


def changed(output: Output, before: dict[str, float]) -> list[str]:
    return [path for path, at in versions(output).items() if before.get(path) != at]


def expected(records: list[VideoRecord]) -> dict[str, Any]:
    newest = {one.id: one for one in sorted(records, key=lambda one: one.finished_at)}
    return {key: page_row(one, None).row for key, one in newest.items()}


def test_a_video_with_all_its_files(output: Output, tmp_path: Path) -> None:
    local = Output(str(tmp_path / "made"))
    local.prepare()
    one = store_video(local, "red-ball", job())
    output.put_bytes(local.read_bytes(one.scores) or b"", one.scores)
    store_rows(output, one, record("invalid", job(seed=1), status="invalid", specification=""))
    synced(output)
    found = rows(output)
    assert (output.read_bytes("report/index.html") or b"").startswith(b"<!doctype html>")
    row = found[one.id]
    assert (row["name"], row["seed"], row["status"], row["path"]) == (
        *("red-ball", "0", "done"),
        "videos/red-ball.mp4",
    )
    video = read(output, f"videos/{one.id}.js")
    assert video["scores"] == json.loads(output.read_bytes(one.scores) or b"")
    pipeline = read(output, f"pipelines/{row['pipeline']}.js")["pipeline"]
    own = {"prompt": row["prompt"], "seed": int(row["seed"]), **row["own"], "pipeline": pipeline}
    assert own == {
        key: value for key, value in json.loads(one.specification).items() if value or key == "seed"
    }
    assert len(output.list("report/data/videos")) == 1


def test_a_row_that_is_outdated_leaves_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_files, "ROWS_PER_FILE", 4)
    output = Output(str(tmp_path))
    records = many(9)
    store_rows(output, *records)
    report = synced(output)
    gone, last = records[1], records[8]
    for one in (gone, last, gone):
        report.add(outdated_record(one.id, one.name, "another video has its name"))
    report.write(None)
    assert rows(output) == expected([one for one in records if one not in (gone, last)])
    # One that comes again, and a report that reads what is there.
    report.add(last)
    report.write(None)
    store_rows(output, outdated_record(gone.id, gone.name, "another video has its name"))
    before = versions(output)
    synced(output)
    assert changed(output, before) == ["report/data/index.js", "report/index.html"]
    assert rows(output) == expected([one for one in records if one is not gone])


def test_only_what_changed_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_files, "ROWS_PER_FILE", 20)
    output = Output(str(tmp_path))
    records = many(110)
    store_rows(output, *records[:100])
    report = synced(output)
    before = versions(output)
    for one in records[100:103]:
        report.add(one)
    report.write(None)
    names = ["index.js", "rows-00005.js"]
    assert changed(output, before) == [f"report/data/{name}" for name in names]
    # One that is rendered again keeps its place.
    before = versions(output)
    again = replace(records[30], status="done", error="", finished_at=records[30].finished_at + 1e6)
    report.add(again)
    report.write(None)
    names[1] = "rows-00001.js"
    assert changed(output, before) == [f"report/data/{name}" for name in names]
    assert rows(output) == expected([*records[:103], again])
    # Another process finds all of it, and the one video that only the manifest has.
    store_rows(output, *records[100:104], again)
    before = versions(output)
    synced(output)
    wanted = ["report/data/index.js", "report/data/rows-00005.js", "report/index.html"]
    assert changed(output, before) == wanted
    assert rows(output) == expected([*records[:104], again])


@pytest.mark.parametrize("seed", range(8))
def test_any_history_ends_in_the_manifest(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that add, are killed between any two files, and begin again."""
    monkeypatch.setattr(data_files, "ROWS_PER_FILE", 5)
    dice = random.Random(seed)  # noqa: S311
    output = Output(str(tmp_path))
    records, known = many(40), []
    report = Report(output)
    report.sync()
    for _ in range(25):
        for one in dice.sample(records, dice.randrange(4)):
            known.append(replace(one, finished_at=1e9 + len(known), error=f"{len(known)}"))
            store_rows(output, known[-1])
            report.add(known[-1])
        match dice.randrange(4):
            case 0:
                report = synced(output)
            case 1:
                _torn(output, dice)
                report = synced(output)
            case _:
                report.write(None, within_s=0)
    while not report.write(None):
        pass
    assert rows(output) == expected(known)


@pytest.mark.parametrize("seed", range(60))
def test_two_processes_write_one_page(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that adds its videos, and another that renders some of them again."""
    monkeypatch.setattr(data_files, "ROWS_PER_FILE", 4)
    dice = random.Random(seed)  # noqa: S311
    output = Output(str(tmp_path))
    records, known = many(12), []
    run, other = synced(output), synced(output)
    for one in records:
        store_rows(output, one)
        known.append(one)
        run.add(one)
        if dice.random() < 0.6:
            run.write(None)
        if dice.random() < 0.6:
            again = replace(dice.choice(known), finished_at=one.finished_at + 1, error="again")
            store_rows(output, again)
            known.append(again)
            other.add(again)
            other.write(None)
            assert rows(output).items() >= {again.id: page_row(again, None).row}.items()
    run.write(None)
    assert rows(output) == expected(known)


def test_what_is_stored_while_rows_are_gathered_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stores its last video between an evaluation's first row and its last."""
    monkeypatch.setattr(data_files, "ROWS_PER_FILE", 4)
    output = Output(str(tmp_path))
    records = many(6)
    store_rows(output, *records[:5])
    run, other = synced(output), synced(output)
    gather = report_module.page_row

    def row_after_the_runs(*arguments: Any) -> Any:
        monkeypatch.setattr(report_module, "page_row", gather)
        store_rows(output, records[5])
        run.add(records[5])
        run.write(None)
        return gather(*arguments)

    monkeypatch.setattr(report_module, "page_row", row_after_the_runs)
    for one in (records[0], records[4]):
        other.add(one)
    assert other.write(None)
    assert rows(output) == expected(records)


def _torn(output: Output, dice: random.Random) -> None:
    """What a kill, a full disk or a hand in the folder leaves."""
    files = [file.path for file in output.list("report/data")]
    for path in dice.sample(files, min(len(files), 2)):
        if dice.random() < 0.5:
            output.delete(path)
        else:
            output.put_bytes((output.read_bytes(path) or b"")[:-3], path)


def test_a_manifest_that_was_replaced_makes_it_anew(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    store_rows(output, *many(9))
    synced(output)
    output.delete("manifest.parquet")
    output.delete(".work/manifest")
    others = [replace(one, id=f"{at:016x}") for at, one in enumerate(many(3))]
    store_rows(output, *others)
    synced(output)
    assert rows(output) == expected(others)


def test_what_takes_too_long_waits(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    report = synced(output)
    for one in many(3):
        report.add(one)
    assert not report.write(None, within_s=-1)
    assert len(rows(output)) == 1
    assert report.write(None)
    assert len(rows(output)) == 3


def test_the_preview_sheet_of_a_video_that_was_asked_for_and_made(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    output.prepare()
    jobs = [job(seed=seed, **{"preview.every": every}) for seed, every in enumerate((0, 5, 5))]
    names = ("off", "on", "too-short")
    for name in names[:2]:
        output.put_bytes(b"PNG", f"previews/{name}.png")
    store_rows(output, *map(record, names, jobs))
    report = Report(output)
    report.sync()
    assert report.write(None)
    found = {row["name"]: row.get("preview_sheet") for row in rows(output).values()}
    assert found == {"off": None, "on": "previews/on.png", "too-short": None}


def test_the_run_is_in_the_index(tmp_path: Path) -> None:
    output = Output(str(tmp_path))
    report = Report(output)
    report.sync()
    report.write(RunStatus("node7", 1, 10.0, 20.0, num_videos=5, ended={"done": 2}), "died")
    run = read(output, "index.js")["run"]
    assert (run["state"], run["num_queued"], run["host"]) == ("died", 3, "node7")


def test_long_texts_are_read_with_the_video() -> None:
    long = page_row(record("x", job(), prompt="a" * 5000, error="b" * 5000), None)
    assert (len(long.row["prompt"]), len(long.row["error"])) == (1000, 1000)
    assert long.video == {"prompt": "a" * 5000, "error": "b" * 5000, "id": long.row["id"]}
    assert page_row(record("x", job()), None).video is None


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "{}", '{"pipeline": 3}', '{"pipeline": {}}']
)
def test_a_specification_of_another_kind_is_left_out(text: str) -> None:
    made = page_row(record("x", job(), specification=text), None)
    assert made.pipeline is None
    assert "method" not in made.row


@given(st.text())
def test_ids_are_file_names(text: str) -> None:
    assert re.fullmatch("[0-9a-f]{16}", page_id(text))
    assert page_id("0123456789abcdef") == "0123456789abcdef"


@given(st.lists(st.floats(0, 255), max_size=200))
def test_a_curve_keeps_the_peak(values: list[float]) -> None:
    drawn = curve(values)
    assert len(drawn) == min(len(values), 32)
    assert all(0 <= value <= 99 for value in drawn)
    if values and max(values) > 0:
        assert max(drawn) == 99


def test_the_page_asks_nobody_for_anything() -> None:
    html = page("<b>a & 'b'").decode()
    assert "<title>&lt;b&gt;a &amp; &#39;b&#39; · glc-ray</title>" in html
    addresses = set(re.findall(r"\b\w+://[^\s\"']+", html))
    assert addresses == {"http://www.w3.org/2000/svg"}, "a namespace, which nobody fetches"
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|fetch\(", html)
    assert len(html) < 80_000


def test_no_torch_is_needed() -> None:
    code = (
        "import glc_ray.report, glc_ray.report_page.report, sys; "
        "print([name for name in ('torch', 'ray', 'diffusers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_front_door(tmp_path: Path) -> None:
    output = Output(str(tmp_path / "out"))
    output.prepare()
    refused = CliRunner().invoke(front_door.main, [output.location])
    assert refused.exit_code == 2
    assert refused.stderr.startswith(f"error: {output.uri()}: no output of glc-ray: it has neither")
    store_rows(output, *many(3))
    done = CliRunner().invoke(front_door.main, [output.location, "--anew"])
    assert (done.exit_code, done.stdout) == (
        0,
        f"report         {output.uri('report/index.html')}\n",
    )
    assert len(rows(output)) == 3
