"""The benches' commands, and that what they time is what they say."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from glc_ray.bench import main
from glc_ray.bench_decode import _decoding, _Result, _Task, time_decode
from glc_ray.pipeline_file import load_pipeline


@pytest.mark.parametrize("arguments", [["--workers", "x"], ["denoise", "--workers", "x"]])
def test_denoise_is_the_bench_unless_another_is_named(arguments: list[str]) -> None:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert "bench denoise" in result.output or "main denoise" in result.output
    assert "'x' is not a valid integer" in result.output


def test_help_names_all_benches() -> None:
    result = CliRunner().invoke(main, ["--help"])
    for name in ("coordinator", "decode", "denoise"):
        assert f"\n  {name} " in result.output


def test_a_users_mistake_is_told_without_a_traceback() -> None:
    result = CliRunner().invoke(main, ["decode", "--pipeline", "no-such-pipeline"])
    assert (result.exit_code, result.exception.__class__) == (2, SystemExit)
    assert result.output.startswith("error: ")


@pytest.mark.parametrize(("kind", "num_decoders"), [("diffusers", 1), ("stream", 1), ("stream", 2)])
def test_every_kind_decodes_the_whole_video(kind: str, num_decoders: int) -> None:
    spec = load_pipeline("toyworld", [("decode.segment", 2), ("decode.warmup", 2)])
    latents = torch.zeros(1, 5, 16, 8, 12)
    frames = [
        _decoding(_Task(kind, spec, 17, decoder, num_decoders), latents)()  # type: ignore[arg-type]
        for decoder in range(num_decoders)
    ]
    assert sum(frames) == 17
    assert all(frames)


def test_the_best_runs_are_compared(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two runs the first of each kind takes twice as long; one decoder needs half diffusers'
    time a frame, two decoders a quarter of it on the longer video."""
    seen: list[str] = []

    def run(tasks: list[_Task]) -> list[_Result]:
        task, slow = tasks[0], 1 if len(seen) >= 4 else 2
        seen.append(task.kind)
        share = task.num_frames // len(tasks)
        per_frame_s = (0.02 if task.kind == "diffusers" else 0.01) * slow
        peak = 100_000_000 + 10_000 * task.num_frames
        return [_Result(share, share * per_frame_s, share * per_frame_s, peak, 9_000_000)] * len(
            tasks
        )

    monkeypatch.setattr("glc_ray.bench_decode._run", run)
    time_decode(load_pipeline("toyworld", []), (100, 1000), num_decoders=2, runs=2)
    assert capsys.readouterr().out.splitlines() == [
        "diffusers' vae.decode, 100 frames: 50.0 frames/s (slowest run 25.0; by CPU time 50.0, "
        "25.0); peak memory 101 MB, 9 MB of it to decode",
        "1 decoder, 100 frames: 100.0 frames/s (slowest run 50.0; by CPU time 100.0, 50.0); peak "
        "memory 101 MB, 9 MB of it to decode",
        "1 decoder, 1000 frames: 100.0 frames/s (slowest run 50.0; by CPU time 100.0, 50.0); peak "
        "memory 110 MB, 9 MB of it to decode",
        "2 decoders, 1000 frames: 200.0 frames/s (slowest run 100.0; by CPU time 200.0, 100.0); "
        "peak memory 110 MB, 9 MB of it to decode",
        "1 decoder against diffusers: 2.00x (by CPU time 2.00x)",
        "2 decoders against diffusers: 4.00x (by CPU time 4.00x)",
        "2 decoders against 1: 2.00x (by CPU time 2.00x)",
        "peak memory at 1000 frames against 100: 1.089x",
    ]


def test_scale_keeps_workers_busy_and_says_what_deaths_cost() -> None:
    """Of one speed, without deaths or a coordinator's time, nobody ever waits but at the end."""
    runner = CliRunner()
    small = ["scale", "--workers", "24", "--steps", "2", "--window-s", "10"]
    calm = runner.invoke(
        main, [*small, "--alike", "--coordinator-s", "0", "--deaths-per-hour", "0"]
    )
    assert calm.exit_code == 0, calm.output
    first, busy, lost, _ = calm.output.splitlines()
    assert first == "40 videos of 2 steps of 18 windows, 4 in flight on 24 workers"
    occupancy = float(busy.split()[1].rstrip(";"))
    assert 0.95 < occupancy <= 1
    assert lost == "0 deaths, lost work 0 s, 0.0000% of what counts"
    deadly = runner.invoke(main, [*small, "--deaths-per-hour", "10"])
    deaths = int(deadly.output.splitlines()[2].split()[0])
    assert deaths > 0
    assert "lost work 0 s" not in deadly.output
