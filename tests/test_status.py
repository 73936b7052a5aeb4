"""What an output says of itself, to people and to scripts, during a run and after it."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from glc_ray import cli, status
from glc_ray import overview as overview_module
from glc_ray.overview import Reasons, overview
from glc_ray.overview_text import busy_share, lines
from glc_ray.protocols import UserError
from glc_ray.store import manifest, run_status
from glc_ray.store.lease import run_lease
from glc_ray.store.manifest import ManifestWriter
from glc_ray.store.output import Output
from glc_ray.store.record import VideoRecord, invalid_record
from glc_ray.store.run_status import Occupancy, RunStatus, VideoProgress

DENOISING = VideoProgress(
    "blue-box", "denoising", steps_done=2, num_steps=25, windows_done=4, num_windows=18
)
DECODING = VideoProgress("red-ball", "decoding", frames_done=9, num_frames=145)


@pytest.fixture
def place(tmp_path: Path) -> Output:
    place = Output(str(tmp_path / "out"))
    place.prepare()
    return place


def record(name: str, state: str = "done", *, at: float = 0.0, error: str = "") -> VideoRecord:
    key = f"{random.Random(name).getrandbits(64):016x}"  # noqa: S311
    return VideoRecord(
        id=key,
        name=name,
        prompt="a ball",
        seed=0,
        specification_hash=key * 4,
        specification="{}",
        status=state,
        error=error,
        finished_at=at,
    )


def store(place: Output, *records: VideoRecord) -> None:
    with ManifestWriter(place) as writer:
        for one in records:
            writer.add(one)


def run_of(state: str = "running", **given: Any) -> RunStatus:
    now = time.time()
    values = {"started_at": now - 1000, "updated_at": now, **given}
    return RunStatus(host="node7", pid=4242, state=state, **values)


@pytest.mark.parametrize("command", ["status", "cancel", "report", "retry", "evaluate"])
def test_what_is_no_output_is_the_persons_mistake(command: str, tmp_path: Path) -> None:
    file = tmp_path / "notes"
    file.write_text("x")
    for location, text in (
        (str(file), f"error: {file}: n"),
        (str(tmp_path / "nowhere"), f"error: {tmp_path / 'nowhere'}: n"),
        ("~nosuchuser/out", "error: --output ~nosuchuser/out: not a path that can be used (Could "),
    ):
        done = CliRunner().invoke(cli.main, [command, location])
        assert done.output.startswith(text)
        assert done.exit_code == 2
    assert not (tmp_path / "nowhere").exists()


def call(place: Output, *options: str) -> Result:
    return CliRunner().invoke(status.main, [place.location, *options])


def table(text: str) -> dict[str, str]:
    rows = [line.split(maxsplit=1) for line in text.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 2}


def test_run_in_work(place: Output) -> None:
    now = time.time()
    store(
        place,
        record("old", at=now - 5000),
        *(record(f"v{i}", at=now - 900 + 100 * i) for i in range(5)),
        record("bad", "failed", at=now - 10, error="latents: out of memory"),
    )
    run = run_of(
        num_videos=20,
        num_skipped=1,
        ended={"done": 5, "failed": 1},
        in_work=(DENOISING, DECODING),
        workers=Occupancy(4, 3, 2, 7, busy_s=3000.0, restarts=2),
    )
    run_status.write(place, run)
    result = call(place)
    shown = table(result.stdout)
    assert result.exit_code == 4
    assert shown["run"].startswith("running on node7, process 4242, since ")
    assert re.search(r", last sign \d+ s ago$", shown["run"])
    assert shown["videos"] == "21: 12 queued, 1 denoising, 1 decoding, 6 done, 1 failed"
    expected = "3 of 4 ready, 2 busy now, 75% of the run's time, 7 tasks waiting, 2 restarts"
    assert shown["workers"] == expected
    assert shown["rate"].startswith("18 videos an hour, about ")
    assert shown["blue-box"] == "denoising: step 3 of 25, window 4 of 18"
    assert shown["red-ball"] == "decoding: frame 9 of 145"
    assert "      1  latents: out of memory (bad)" in result.stdout.splitlines()
    # 12 queued, and of two videos what display.fraction says is left; 6 ended in 1000 s.
    left = 12 + (1 - 0.9 * (2 + 4 / 18) / 25) + (0.1 - 0.1 * 9 / 145)
    assert overview(place).eta_s == pytest.approx(left / 6 * 1000)


@pytest.mark.parametrize(
    ("run", "records", "code", "text"),
    [
        (run_of("done", num_videos=1, ended={"done": 1}), [record("a")], 0, "done at "),
        (run_of("done"), [record("a"), record("b", "cancelled")], 0, "done at "),
        (run_of("done"), [record("a"), record("b", "failed")], 1, "done at "),
        (run_of("done"), [invalid_record("c.csv", 3, "no prompt")], 1, "done at "),
        (
            run_of("done", num_videos=3, ended={"cancelled": 1}),
            [record("b", "cancelled")],
            3,
            "cancelled at ",
        ),
        (run_of("stopped", num_videos=3, ended={"done": 1}), [record("a")], 3, "stopped at "),
        (run_of("failed", num_videos=3), [], 3, "ended with an error at "),
        (run_of(num_videos=1), [], 4, "running on node7"),
        (None, [record("a")], 0, "none that tells of itself"),
        (None, [record("a", "failed")], 1, "none that tells of itself"),
    ],
)
def test_exit_codes_and_what_the_run_came_to(
    place: Output, run: RunStatus | None, records: list[VideoRecord], code: int, text: str
) -> None:
    if run is not None:
        run_status.write(place, replace(run, updated_at=time.time()))
    if records:
        store(place, *records)
    result = call(place)
    assert result.exit_code == code
    said = result.stdout.splitlines()[1]
    assert said.startswith(f"run      {text}")
    assert said.endswith("run the same command to go on") == (code == 3)


def test_dead_run_elsewhere(place: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overview_module, "_LISTEN_S", 0.1)
    silent = run_of(num_videos=5, ended={"done": 1}, in_work=(DENOISING,))
    run_status.write(place, replace(silent, updated_at=time.time() - 185))
    result = call(place)
    said = result.stdout.splitlines()
    assert result.exit_code == 3
    assert said[1] == (
        "run      died on node7, process 4242: no sign for 3 min; run the same command to go on"
    )
    assert said[2] == "videos   4: 4 queued", "of a dead run nothing is in work"
    assert "in work at its last sign" in said
    assert "left" not in result.stdout, "nobody is at it"


def test_a_run_whose_clock_is_behind_is_alive(place: Output) -> None:
    silent = run_of(updated_at=time.time() - 1800)
    run_status.write(place, silent)
    writes = threading.Timer(
        0.2, run_status.write, (place, replace(silent, updated_at=silent.updated_at + 2))
    )
    writes.start()
    found = overview(place)
    writes.join()
    assert (found.run_state, found.silent_s) == ("running", 0.0)


def test_on_this_machine_the_lease_tells_who_is_alive(place: Output) -> None:
    silent = replace(run_of(updated_at=time.time() - 20), host=socket.gethostname())
    run_status.write(place, silent)
    with run_lease(place):
        assert overview(place).run_state == "running"
        assert ", no sign for 20 s" in lines(overview(place))[1]
    assert overview(place).run_state == "died"


def test_not_an_output(tmp_path: Path) -> None:
    result = CliRunner().invoke(status.main, [str(tmp_path / "nowhere")])
    assert result.exit_code == 2
    assert result.stderr == (
        f"error: {tmp_path}/nowhere: no output of glc-ray: it has neither manifest.parquet nor a "
        "run that begins; give the --output of a render\n"
    )
    assert not (tmp_path / "nowhere").exists(), "looking makes no folder"


def test_failed_videos_that_are_in_work_again_count_once(place: Output) -> None:
    store(place, record("blue-box", "failed", at=1.0), record("other", "failed", at=1.0))
    run_status.write(place, run_of(num_videos=2, in_work=(DENOISING,)))
    found = overview(place)
    assert found.counts == dict.fromkeys(found.counts, 0) | {
        "queued": 1,
        "denoising": 1,
        "failed": 1,
    }
    assert found.earlier == 1
    assert "(1 of the failed before this run, which may have them queued)" in lines(found)[2]


def test_rate_of_a_run_that_goes_on_is_that_of_its_latest_hundred(place: Output) -> None:
    run = run_of("running", num_videos=500)
    # A hundred in the first 100 s, then one in 4 s.
    times = [*range(1, 101), *range(104, 504, 4)]
    store(place, *(record(f"v{i}", at=run.started_at + at) for i, at in enumerate(times)))
    run = replace(run, updated_at=run.started_at + 500, ended={"done": 200})
    run_status.write(place, replace(run, updated_at=time.time()))
    elapsed = time.time() - run.started_at
    assert overview(place).videos_per_hour == pytest.approx(3600 * 100 / (elapsed - 100), rel=0.01)
    run_status.write(place, replace(run, state="done"))
    assert overview(place).videos_per_hour == pytest.approx(3600 * 200 / 500)
    assert overview(place).eta_s is None


def test_busy_share_is_of_all_workers_time() -> None:
    run = run_of(started_at=0.0, updated_at=100.0, workers=Occupancy(workers=4, busy_s=300.0))
    assert busy_share(run) == 0.75
    assert busy_share(run_of()) is None


@settings(deadline=None)
@given(
    numbers=st.lists(
        st.tuples(st.integers(0, 10**9), st.floats(0, 1e6)), min_size=2, max_size=20, unique=True
    )
)
def test_errors_that_differ_in_numbers_and_names_fall_together(
    numbers: Sequence[tuple[int, float]],
) -> None:
    reasons = Reasons()
    for step, seconds in numbers:
        name = f"ball-{step}-{seconds}"
        error = f"step {step} of 25: no answer in {seconds} s\n  (segments of {name} are kept)"
        reasons.add("failed", error, name, name)
    (reason,) = reasons.most_frequent()
    step = str(numbers[0][0]) if len({step for step, _ in numbers}) == 1 else "N"
    seconds = str(numbers[0][1]) if len({s for _, s in numbers}) == 1 else "N"
    assert reason.text == (
        f"step {step} of 25: no answer in {seconds} s   (segments of NAME are kept)"
    )
    assert reason.count == len(numbers)
    assert reason.example == f"ball-{numbers[0][0]}-{numbers[0][1]}"


def test_reasons_stay_bounded_and_none_is_lost() -> None:
    reasons = Reasons()
    words = ["".join(chr(97 + (i // 26**k) % 26) for k in range(4)) for i in range(3000)]
    for word in [*words, *words]:
        reasons.add("failed", f"reason {word}", "v", "v")
    found = reasons.most_frequent()
    assert len(found) == 1001
    assert found[-1].text == "other reasons"
    assert sum(one.count for one in found) == 6000
    assert {one.count for one in found[:-1]} == {2}


def test_invalid_rows_name_their_lines(place: Output) -> None:
    store(place, *(invalid_record("c.csv", line, f"seed = -{line}: no") for line in (7, 9)))
    assert "      2  seed = -N: no (e.g. line 7)" in call(place).stdout.splitlines()


def test_what_others_wrote_cannot_command_the_terminal(place: Output) -> None:
    store(place, record("a\x1b[2Jb", "failed", error="x\x1b]0;title\x07\r\ny"))
    for options in ([], ["--all"]):
        text = call(place, *options).stdout
        assert not set(text) & set("\x1b\x07\r")
    assert "x ]0;title y (a [2Jb)" in text


def test_all_lists_each_video_once(place: Output) -> None:
    store(
        place,
        record("赤い-ball"),
        record("blue-box", "failed", error="old"),
        record("box", "failed", error="out of memory"),
    )
    run_status.write(place, run_of(num_videos=9, ended={"done": 1}, in_work=(DENOISING,)))
    assert call(place, "--all").stdout.splitlines()[-4:] == [
        "blue-box: denoising: step 3 of 25, window 4 of 18",
        "赤い-ball: done",
        "box: failed: out of memory",
        "and 7 queued",
    ]
    facts, *videos = map(json.loads, call(place, "--all", "--json").stdout.splitlines())
    assert [(one["name"], one["state"]) for one in videos] == [
        ("blue-box", "denoising"),
        ("赤い-ball", "done"),
        ("box", "failed"),
    ]
    assert facts["counts"]["queued"] == 7
    assert facts["exit_code"] == 4
    assert facts["run"]["in_work"][0]["steps_done"] == 2


def test_where_the_preview_of_a_video_in_work_is(place: Output) -> None:
    shown = replace(DENOISING, preview="previews/blue-box.png")
    run_status.write(place, run_of(num_videos=1, in_work=(shown,)))
    expected = (
        f"denoising: step 3 of 25, window 4 of 18; preview {place.uri('previews/blue-box.png')}"
    )
    assert table(call(place).stdout)["blue-box"] == expected
    assert f"blue-box: {expected}" in call(place, "--all").stdout.splitlines()
    facts = json.loads(call(place, "--json").stdout)
    assert facts["run"]["in_work"][0]["preview"] == "previews/blue-box.png"


def test_a_crowd_in_work_leaves_room_for_the_rest(place: Output) -> None:
    crowd = tuple(replace(DENOISING, name=f"v{i}") for i in range(50))
    run_status.write(place, run_of(num_videos=50, in_work=crowd))
    assert call(place).stdout.splitlines()[-1] == "  and 30 more, which --all shows"


def test_reads_narrow_columns_alone(place: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    """Specifications of 100,000 videos are gigabytes; more than four columns are fetched whole."""
    read = manifest.iter_batches
    asked: list[Sequence[str]] = []

    def recorded(output: Output, columns: Sequence[str] | None = None) -> Any:
        assert columns is not None
        asked.append(columns)
        return read(output, columns)

    monkeypatch.setattr(manifest, "iter_batches", recorded)
    store(place, record("a"), invalid_record("c.csv", 3, "no prompt"))
    call(place, "--all")
    assert len(asked) == 3
    assert all(len(columns) <= 4 for columns in asked)
    assert not {"specification", "prompt"} & {name for columns in asked for name in columns}


def test_watch_in_a_log_ends_with_the_run(place: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_POLL_S", 0.05)
    run = run_of(num_videos=1, in_work=(DENOISING,))
    run_status.write(place, run)

    def end() -> None:
        store(place, record("blue-box", at=time.time()))
        run_status.write(place, replace(run, state="done", ended={"done": 1}, in_work=()))

    ends = threading.Timer(0.5, end)
    ends.start()
    result = call(place, "--watch")
    ends.join()
    said = result.stdout.splitlines()
    assert result.exit_code == 0
    assert said[0] == "1: 1 denoising", "one line in ten seconds"
    assert said[1] == place.location
    assert table(result.stdout)["videos"] == "1: 1 done"


def test_watch_on_a_terminal_renews_its_lines(place: Output) -> None:
    run = run_of(num_videos=1, in_work=(DENOISING,))
    run_status.write(place, run)
    mine, its = pty.openpty()
    command = [sys.executable, "-m", "glc_ray.status", place.location, "--watch"]
    with subprocess.Popen(command, stdout=its, env={**os.environ, "TERM": "xterm"}) as process:
        os.close(its)
        text = _read_until(mine, "step 3 of 25")
        store(place, record("blue-box", at=time.time()))
        run_status.write(place, replace(run, state="done", ended={"done": 1}, in_work=()))
        text += _read_until(mine, None)
        assert process.wait(60) == 0
    os.close(mine)
    assert "\x1b[1A" in text, "goes up to write again"
    assert "videos   1: 1 done" in re.sub(r"\x1b\[[0-9;?]*\w", "", text)


def _read_until(terminal: int, word: str | None) -> str:
    text = ""
    while word is None or word not in text:
        try:
            data = os.read(terminal, 4096)
        except OSError:
            break
        if not data:
            break
        text += data.decode(errors="replace")
    return text


@pytest.mark.parametrize("command", ["status", "cancel", "retry"])
def test_help_fits_into_80_columns(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    from glc_ray.cli import main

    result = CliRunner().invoke(main, [command, "--help"], prog_name="glc-ray")
    assert result.exit_code == 0
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert f"glc-ray {command}" in result.stdout


@pytest.mark.parametrize("options", [[], ["--all", "--json"]])
def test_starts_without_torch_and_ray(place: Output, options: list[str]) -> None:
    store(place, record("a"))
    script = (
        "import sys; from glc_ray.status import main\n"
        "try: main()\n"
        "finally: print(*sorted({'torch', 'ray', 'diffusers', 'transformers'} & set(sys.modules)),"
        " file=sys.stderr)"
    )
    command = [sys.executable, "-c", script, place.location, *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "done" in done.stdout
    assert done.stderr.strip() == ""


def test_looking_changes_nothing(place: Output) -> None:
    store(place, record("a"))
    before = sorted(path for path in Path(place.location).rglob("*"))
    call(place, "--all")
    assert sorted(path for path in Path(place.location).rglob("*")) == before


def test_manifest_that_is_something_else(tmp_path: Path) -> None:
    (tmp_path / "manifest.parquet").write_text("no table")
    with pytest.raises(UserError, match="not a manifest"):
        overview(Output(str(tmp_path)))
