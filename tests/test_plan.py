"""``python -m glc_ray.plan``: its text, its JSON, and the answers that it shares with render."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from glc_ray.cli import main as glc_ray_main
from glc_ray.config import GLCSpec
from glc_ray.estimate.build import estimate
from glc_ray.estimate.picture import Canvas, draw, legend
from glc_ray.estimate.show import show
from glc_ray.job import build_job
from glc_ray.methods.glc import GLC
from glc_ray.pipeline_file import load_pipeline
from glc_ray.plan import main
from glc_ray.protocols import Path as WindowPath
from glc_ray.protocols import StepPlan, Window
from glc_ray.render import main as render


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="python -m glc_ray.plan")


def sections(text: str) -> list[str]:
    """First lines after an empty one."""
    lines = text.splitlines()
    return [line for before, line in zip(["", *lines], lines, strict=False) if not before]


@pytest.mark.parametrize("num_frames", ["25", "145", "1201"])
def test_text_is_plain_and_fits_80_columns(num_frames: str) -> None:
    result = run("--num-frames", num_frames, "--seconds-per-forward", "0.25", "--steps", "5")
    assert result.exit_code == 0, result.stderr
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert "\x1b" not in result.stdout
    assert sections(result.stdout)[1:] == [
        "Windows of the first step (timestep 999)",
        "Forwards",
        "Workers",
        "Memory",
        "Between processes",
        "Notes",
    ]


def test_text_says_what_was_found() -> None:
    lines = run("--workers", "3", "--steps", "5").stdout.splitlines()
    assert lines[0].startswith("glc over 145 frames of 96x64: 37 latent frames in windows of 7, 5")
    assert "    0 │█     █     █     █     █     █     █│ anchor" in lines
    assert "one forward of 7 latent frames: 3.92 GFLOP, both branches of guidance" in lines
    assert any(line.startswith("3 < ") for line in lines)
    assert any(line.startswith("worker: anchor, cache = device < ") for line in lines)
    assert any(
        line.startswith("seconds are unknown: give --seconds-per-forward S") for line in lines
    )


def test_measuring_gives_seconds(tiny_pipeline: Path) -> None:
    text = " ".join(run("--pipeline", str(tiny_pipeline), "--measure").stdout.split())
    assert re.search(r"from \S+ s a window, measured; ", text)
    assert re.search(r"\d kinds of batch, 3 times each, .*; widest spread \d+%", text)
    assert re.search(r"the coordinator's \S+ s a step are among them", text)


def test_terminals_without_unicode_get_ascii() -> None:
    job = build_job(load_pipeline("toyworld", [("sampling.num_steps", 1)]), None, 0)
    printed = io.BytesIO()
    with io.TextIOWrapper(printed, encoding="ascii") as file:
        show(estimate(job), glc_plan(37, 7), Console(file=file, width=80))
        file.flush()
        text = printed.getvalue().decode("ascii")
    assert "    0 |#     #     #     #     #     #     #| anchor" in text


def test_json_is_the_estimate() -> None:
    result = run("--json", "--steps", "5", "--seconds-per-forward", "2")
    job = build_job(load_pipeline("toyworld", [("sampling.num_steps", 5)]), None, 0)
    expected = asdict(estimate(job, seconds_per_window=2))
    assert json.loads(result.stdout) == json.loads(json.dumps(expected))
    assert json.loads(result.stdout)["timing"] == {
        "source": "stated",
        "seconds_per_window": 2.0,
        "batches": [],
        "coordinator_step_s": None,
    }


def test_ray_is_not_even_imported() -> None:
    code = (
        "import sys; from glc_ray.plan import main; main(['--steps', '1'], standalone_mode=False); "
        "sys.exit('ray' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_a_pipeline_without_a_prompt_is_planned_all_the_same() -> None:
    result = run("--set", "prompt=", "--steps", "2")
    assert (result.exit_code, result.stderr) == (0, "")
    assert (
        " no --prompt was given, and the pipeline has none: the figures are those of any one "
        "prompt; its text is part of the name and the specification_hash"
    ) in " ".join(result.stdout.split())


def test_configuration_files_are_enough_unless_it_measures(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("sincos"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    arguments = ["--set", f"model.path={folder}", "--num-frames", "33", "--steps", "2"]
    assert run(*arguments).exit_code == 0
    for refused in (run(*arguments, "--measure"), CliRunner().invoke(render, arguments)):
        assert refused.exit_code == 2
        assert "is missing: no *.safetensors in" in refused.stderr


def test_json_has_totals_and_speed_ups() -> None:
    found = json.loads(run("--json", "--steps", "2", "--seconds-per-forward", "2").stdout)
    first, *others = found["workers"]
    assert (first["speed_up"], first["total_s"]) == (1, 2 * found["forwards"]["windows"]["total"])
    assert all(row["speed_up"] == first["total_s"] / row["total_s"] > 1 for row in others)
    memory = found["memory"]
    (anchor,) = [cache for cache in memory["anchor_caches"] if cache["is_chosen"]]
    assert memory["denoising_device_bytes"] == (
        memory["weights_bytes"] + memory["activations_bytes"] + anchor["device_bytes"]
    )
    assert memory["encoding_device_bytes"] == (
        memory["weights_bytes"] + memory["text_encoder_bytes"]
    )


@pytest.mark.parametrize("width", [40, 60, 120])
def test_text_fits_its_terminal_and_numbers_keep_their_units(width: int) -> None:
    job = build_job(load_pipeline("toyworld", [("sampling.num_steps", 1)]), None, 0)
    text = io.StringIO()
    show(estimate(job), glc_plan(37, 7), Console(file=text, width=width))
    lines = text.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert any("24.2 MB" in line for line in lines)


def test_every_option_of_render_is_taken() -> None:
    ours = {option.name for option in main.params}
    assert ours >= {option.name for option in render.params}
    result = run("--output", "/dev/null/out", "--address", "127.0.0.1:1", "--steps", "1")
    assert result.exit_code == 0, "nothing is written and nobody is asked"


def test_what_makes_no_difference_is_taken_and_not_shown() -> None:
    text = run("--help").stdout
    video = "prompt num-frames seed method steps guidance-scale workers pipeline set fps"
    own = "measure seconds-per-forward json log-format no-color help"
    assert re.findall(r"^  --([a-z-]+)", text, re.MULTILINE) == [*video.split(), *own.split()]
    taken = ["--keep-latents", "--force", "--no-report", "--preview-every", "5", "--wait"]
    taken += ["--strict", "--samples-per-prompt", "2", "--naming", "vbench", "--steps", "1"]
    assert run(*taken).exit_code == 0
    refused = run("--catalog", "prompts.jsonl")
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: --catalog prompts.jsonl: plan tells what one video ")
    # The same options are shown where they count.
    assert "--catalog" in CliRunner().invoke(render, ["--help"]).output


def test_glc_ray_plan_is_the_same_command() -> None:
    text = CliRunner().invoke(glc_ray_main, ["plan", "--help"], prog_name="glc-ray").output
    assert text.split("\n", 1)[1] == run("--help").output.split("\n", 1)[1]
    assert text.startswith("Usage: glc-ray plan [OPTIONS]")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompt", ""],
        ["--seed", "-1"],
        ["--num-frames", "1000001"],
        ["--num-frames", "144"],
        ["--method", "magic"],
        ["--pipeline", "sora"],
        ["--set", "glc.stride=8"],
        ["--set", "model.path=/nowhere"],
        ["--set", "model.path=~nosuchuser/x"],
        ["--method", "freenoise", "--set", "freenoise.level=attention"],
    ],
)
def test_mistakes_are_answered_as_by_render(arguments: list[str]) -> None:
    results = [CliRunner().invoke(command, arguments) for command in (main, render)]
    assert [result.exit_code for result in results] == [2, 2]
    assert results[0].stderr == results[1].stderr
    assert results[0].stderr.startswith("error: ")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--measure", "--seconds-per-forward", "2"],
            "error: --seconds-per-forward 2 and --measure: both say how long a forward takes; give "
            "one of them\n",
        ),
        (
            ["--seconds-per-forward", "0"],
            "error: --seconds-per-forward 0: must be above 0; give the seconds that a guided "
            "forward of one window takes, for example --seconds-per-forward 4.5\n",
        ),
    ],
)
def test_seconds_that_cannot_be(arguments: list[str], text: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (2, text)


def glc_plan(num_latent_frames: int, window_size: int) -> StepPlan:
    method = GLC(
        num_latent_frames=num_latent_frames, window_size=window_size, seed=0, options=GLCSpec()
    )
    return method.plan(0, 999.0)


@given(window_size=st.integers(1, 20), longer=st.integers(0, 400), is_ascii=st.booleans())
def test_picture_fits_a_screen(window_size: int, longer: int, is_ascii: bool) -> None:
    plan = glc_plan(window_size + longer, window_size)
    canvas = Canvas(window_size + longer, is_ascii=is_ascii)
    lines = list(draw(plan, canvas))
    assert len(lines) <= canvas.rows
    assert max(map(len, lines)) <= 80
    assert "".join(lines).isascii() or not is_ascii
    left_out = [line.split()[1] for line in lines if line.endswith(" windows more")]
    drawn = [line for line in lines if line[:5].strip().isdigit()]
    assert len(drawn) + sum(map(int, left_out)) == len(plan.windows)


@pytest.mark.parametrize("num_latent_frames", [9, 37, 301])
def test_bar_is_where_the_window_is(num_latent_frames: int) -> None:
    """The local window of frames 3, 4, 5."""
    window = Window(0, "local", (3, 4, 5), (1.0,) * 3)
    expected = {
        9: " " * 15 + "█" * 15 + " " * 15,
        37: "   ███" + " " * 31,
        301: "█" + " " * 42,
    }
    assert Canvas(num_latent_frames).bar(window) == expected[num_latent_frames]


def test_bar_is_shaded_by_weight() -> None:
    window = Window(0, "local", (0, 1, 2, 3, 4, 5), (1, 2, 3, 4, 1, 0))
    assert Canvas(30).bar(window).rstrip() == "░▒▓█░"
    assert Canvas(30, is_ascii=True).bar(window).rstrip() == ".-=#."


def test_titles_and_marks() -> None:
    lines = list(draw(glc_plan(10, 4), Canvas(10)))
    assert lines[0] == "global: share 0.00824, 3 windows of 4 latent frames, anchor attention (0.1)"
    assert [line.rsplit("│", 1)[1] for line in lines[1:4]] == [
        " anchor",
        " 1 padding",
        " 1 padding",
    ]
    whole = WindowPath("global", 1.0, (Window(0, "global", (0, 1), (1.0, 1.0)),))
    assert next(draw(StepPlan(0, 999, (whole,)), Canvas(2))) == (
        "global: share 1, 1 window of 2 latent frames"
    )


@pytest.mark.parametrize(
    ("num_latent_frames", "text"),
    [(301, "7 latent frames"), (37, "1 latent frame"), (9, "1/5 latent frame")],
)
def test_legend(num_latent_frames: int, text: str) -> None:
    assert legend(Canvas(num_latent_frames)).startswith(f"a character is {text}; ")
