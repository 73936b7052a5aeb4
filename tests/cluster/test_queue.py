"""A catalog becomes a queue, on real Ray Data."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glc_ray.catalog import CatalogJobs, group_of
from glc_ray.config import VideoJob
from glc_ray.protocols import UserError
from glc_ray.runtime.first_lines import FirstLines
from glc_ray.runtime.queue import fill
from glc_ray.runtime.queue_summary import QueueSummary, rows
from glc_ray.runtime.rows import video_id
from glc_ray.store.catalog import BadRow, read_rows
from glc_ray.store.output import Output
from glc_ray.store.paths import QUEUE


def written(tmp_path: Path, values: Iterable[dict[str, Any] | str]) -> str:
    """A catalog of these rows."""
    file = tmp_path / "catalog.jsonl"
    lines = (value if isinstance(value, str) else json.dumps(value) for value in values)
    file.write_text("".join(f"{line}\n" for line in lines))
    return str(file)


def counts(summary: QueueSummary) -> tuple[int, ...]:
    parts = summary.queued, summary.done, summary.repeated, summary.invalid
    assert summary.total == sum(parts)
    return parts


@pytest.fixture
def output(tmp_path: Path) -> Output:
    output = Output(str(tmp_path / "out"))
    output.prepare()
    return output


def test_rows_of_all_kinds(
    ray_cluster: None, output: Output, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalog = written(
        tmp_path,
        [
            {"prompt": "a red ball", "name": "First"},
            {"prompt": "a blue box", "priority": -3},
            {"prompt": "a red ball", "name": "again", "priority": 9},
            {"prompt": "a green ball", "name": "first"},
            "{",
            {"prompt": "a pink ball", "num_frames": 144, "name": "short"},
            {"prompt": "a green ball", "name": "other", "priority": 5},
            {"prompt": "a purple box", "num_frames": 289, "priority": 5},
            {"prompt": "a Zebra under a box", "denoise.batch_size": 1},
        ],
    )
    bad: list[BadRow] = []
    jobs = CatalogJobs("toyworld")
    summary = fill(output, catalog, jobs, done=None, on_invalid=bad.append)
    assert counts(summary) == (5, 0, 1, 3)
    first, second = summary.groups
    assert (first.counts, second.counts) == (((5, 2), (0, 1), (-3, 1)), ((0, 1),))
    queued = list(first.source(output).rows())
    assert first.source(output).num_rows == len(queued) == 4
    assert [row["line"] for row in queued] == [7, 8, 1, 2]
    assert [row["priority"] for row in queued] == [5, 5, 0, -3]
    for row in (*queued, *rows(output, second.folder)):
        job = VideoJob.model_validate_json(row["job"])
        assert row["id"] == video_id(job)
        assert row["catalog"] == catalog
        group = first if row in queued else second
        assert group_of(job) == group.key
        assert job.pipeline.model_dump(include={"denoise"}) == group.pipeline.model_dump(
            include={"denoise"}
        )
    assert queued[0]["name"] == "other"
    assert [(row.line, row.name, row.prompt) for row in bad] == [
        (4, "first", "a green ball"),
        (5, "", ""),
        (6, "short", "a pink ball"),
    ]
    assert bad[0].error == (
        "name = 'first': line 1 has this name, or one that differs in upper and lower case alone; "
        "give another name"
    )
    assert bad[1].error.startswith("not JSON: ")
    assert bad[2].error.startswith("--num-frames 144: must be 4k+1")
    assert caplog.messages == [
        f"--catalog {catalog}: 1 ask for a video that another row asks for, prompt, seed and "
        "settings alike; it is rendered once: line 3 as line 1",
        f"--catalog {catalog}: 1 video has words that the model does not know, such as 'zebra', "
        "'under'; a render of one such prompt lists those that it knows",
    ]


def test_what_is_done_is_left_out_and_keeps_its_name(
    ray_cluster: None, output: Output, tmp_path: Path
) -> None:
    values = [{"prompt": f"a ball {index}", "name": f"n{index}"} for index in range(2500)]
    catalog, jobs = written(tmp_path, values), CatalogJobs("toyworld")
    summary = fill(output, catalog, jobs, done=None)
    assert counts(summary) == (2500, 0, 0, 0)
    (group,) = summary.groups
    queued = list(rows(output, group.folder))
    assert [row["line"] for row in queued] == list(range(1, 2501))
    assert [row["name"] for row in queued] == [value["name"] for value in values]
    assert [json.loads(row["job"])["prompt"] for row in queued] == [
        value["prompt"] for value in values
    ]
    done = np.sort(np.array([int(row["id"], 16) for row in queued[:2400]], np.uint64))
    changed = [*values, {"prompt": "a box", "name": "N7"}]
    bad: list[BadRow] = []
    summary = fill(output, written(tmp_path, changed), jobs, done=done, on_invalid=bad.append)
    assert counts(summary) == (100, 2400, 0, 1)
    assert bad[0].error.startswith("name = 'N7': line 8 has this name")
    # The earlier queue has gone.
    folders = {stored.path.rpartition("/")[0] for stored in output.list(QUEUE)}
    assert folders == {f"{summary.groups[0].folder}/0"}
    left = [row["line"] for row in rows(output, summary.groups[0].folder)]
    assert left == list(range(2401, 2501))


def test_strict_refuses_the_whole(ray_cluster: None, output: Output, tmp_path: Path) -> None:
    values = [{"prompt": "a", "seed": index, "fps": index % 2} for index in range(24)]
    catalog = written(tmp_path, values)
    with pytest.raises(UserError) as error:
        fill(output, catalog, CatalogJobs("toyworld"), done=None, strict=True)
    head, *lines = str(error.value).splitlines()
    assert head == (
        f"--catalog {catalog}: 12 invalid, which --strict refuses; nothing was queued. Mend them, "
        "or leave --strict out to render the others:"
    )
    assert [line.partition(":")[0] for line in lines] == [
        *(f"  line {line}" for line in range(1, 21, 2)),
        "  and 2 more",
    ]
    assert lines[0].startswith("  line 1: fps = 0: video.fps = 0 is not allowed: ")
    assert output.list(QUEUE) == []


def test_a_file_that_turns_out_damaged_queues_nothing(
    ray_cluster: None, output: Output, tmp_path: Path
) -> None:
    # Noise, which does not shrink: the part that is left has rows, and its end is not seen at once.
    generator = np.random.default_rng(0)
    lines = (f"a ball {generator.bytes(1000).hex()}\n" for _ in range(1500))
    file = tmp_path / "torn.txt.gz"
    file.write_bytes(gzip.compress("".join(lines).encode())[:-9])
    next(read_rows(str(file)))
    with pytest.raises(UserError, match=r"torn\.txt\.gz: cannot be read: .*; check that it is"):
        fill(output, str(file), CatalogJobs("toyworld"), done=None)
    assert output.list(QUEUE) == []


def test_mistakes_of_the_whole_file_come_before_anything_starts(
    output: Output, tmp_path: Path
) -> None:
    file = tmp_path / "catalog.csv"
    file.write_text("promt\na\n")
    with pytest.raises(UserError, match=r"unknown column 'promt'; .*; did you mean prompt\?"):
        fill(output, str(file), CatalogJobs("toyworld"), done=None)


def test_files_that_rows_name_are_looked_for_from_here(
    ray_cluster: None, output: Output, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_pipeline.parent)
    Path("mine.jsonl").write_text('{"pipeline": "tiny.yaml"}\n{"prompt": "a", "seed": 2}\n')
    summary = fill(output, "mine.jsonl", CatalogJobs("toyworld"), done=None)
    assert counts(summary) == (2, 0, 0, 0)
    tiny, toyworld = summary.groups
    assert (tiny.pipeline.video.num_frames, toyworld.pipeline.name) == (33, "toyworld")
    (row,) = rows(output, tiny.folder)
    assert row["catalog"] == str(tiny_pipeline.parent / "mine.jsonl")


def test_many_priorities_share_the_memory_of_a_few(
    ray_cluster: None, output: Output, tmp_path: Path
) -> None:
    """More rows than wait in memory, over all priorities: each has few files, all in order."""
    values = ({"prompt": "a", "seed": i, "priority": i % 201 - 100} for i in range(12_000))
    summary = fill(output, written(tmp_path, values), CatalogJobs("toyworld"), done=None)
    (group,) = summary.groups
    assert len(group.counts) == 201
    places = [(-row["priority"], row["line"]) for row in rows(output, group.folder)]
    assert places == sorted(places)
    assert len(places) == 12_000
    assert len(output.list(QUEUE)) < 400


def test_first_lines_are_those_of_a_dictionary() -> None:
    generator = np.random.default_rng(0)
    known: dict[int, int] = {}
    lines = FirstLines()
    for batch in range(200):
        keys = np.unique(generator.integers(0, 2000, generator.integers(0, 9)).astype(np.uint64))
        found = lines.find(keys)
        assert found.tolist() == [known.get(int(key), 0) for key in keys]
        fresh = keys[found == 0]
        generator.shuffle(fresh)
        numbers = np.arange(len(fresh)) + 10 * batch + 1
        lines.add(fresh, numbers)
        known |= dict(zip(map(int, fresh), map(int, numbers), strict=True))
    assert len(known) > 500
