"""``glc-ray compare`` from the command line; with Ray in ``tests/cluster/test_compare.py``."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from glc_ray.compare import compare, main
from glc_ray.store.output import Output
from tests.comparison.outputs import NUM_FRAMES, finish, planned

PROMPT = ("--prompt", "a red ball")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--prompt: says what the videos show, and is missing or empty; give one or more"),
        ([*PROMPT, "--prompt", " "], "--prompt: says what the videos show"),
        (
            [*PROMPT, "--seeds", "0-x"],
            "--seeds 0-x: '0-x' is no whole number and no rising span of at most 10000 of them; "
            "write it as 0,1,2 or 0-9",
        ),
        ([*PROMPT, "--seeds", "3-1"], "--seeds 3-1: '3-1' is no whole number and no rising span"),
        ([*PROMPT, "--seeds", "0-99999"], "--seeds 0-99999: '0-99999' is no whole number"),
        (
            [*PROMPT, "--seeds", "0-99999999999999999999"],
            "--seeds 0-99999999999999999999: '0-99999999999999999999' is no whole number and no",
        ),
        ([*PROMPT, "--seeds", "9" * 5_000], "--seeds 999"),
        (
            [*PROMPT, "--num-frames", "145,ten"],
            "--num-frames 145,ten: 'ten' is no whole number and no rising span of at most 10000 of "
            "them; write it as 145,289",
        ),
        (
            [*PROMPT, "--num-frames", "30"],
            "--methods glc: --num-frames 30: must be 4k+1 for toyworld; the nearest are 29 and 33",
        ),
        (
            ["--prompts-file", "~nosuchuser/prompts.txt"],
            "--prompts-file ~nosuchuser/prompts.txt: cannot be read (No such file or directory)",
        ),
        ([*PROMPT, "--methods", "glc,glc-x"], "--methods glc-x: unknown part of glc 'x'"),
        ([*PROMPT, "--scores", "sharpnes"], "--scores sharpnes: no such score (did you mean sh"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    tmp_path: Path, arguments: list[str], text: str
) -> None:
    output = tmp_path / "out"
    done = CliRunner().invoke(main, [*arguments, "--output", str(output)])
    assert done.exit_code == 2
    assert f"error: {text}" in done.output
    assert "Traceback" not in done.output
    assert not output.exists()


def test_what_a_comparison_scored_is_in_the_table_of_the_output(
    tiny_pipeline: Path, tmp_path: Path
) -> None:
    place = Output(str(tmp_path / "out"))
    _, cells = planned(tiny_pipeline)
    finish(place, tmp_path, cells)

    def scored(score: str) -> set[tuple[str, str]]:
        compare(
            ["a ball"],
            num_frames=(NUM_FRAMES,),
            pipeline=str(tiny_pipeline),
            output=place.location,
            scores=(score,),
            renders=False,
        )
        rows = pq.read_table(place.uri("scores.parquet")).to_pylist()
        return {(row["id"], row["score"]) for row in rows}

    assert scored("sharpness") == {(cell.id, "sharpness") for cell in cells}
    both = scored("smoothness")
    assert {score for _, score in both} == {"sharpness", "motion_smoothness_blend"}
    # One that was interrupted had stored the scores, and not yet the table.
    Path(place.uri("scores.parquet")).unlink()
    assert scored("sharpness") == both
    assert place.read_bytes("report/index.html") is None, "a run may be at work on it"
