"""``python -m glc_ray.bench decode``: memory and speed of the streamed decode.

Every decode has a process of its own, which begins when all of them have loaded their VAE. Frames
per second are given by the clock and by the CPU time of the slowest process: on a machine that
others use, too, only the second is the program's own.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, Literal

import click

from glc_ray.config import PipelineSpec


@dataclass(frozen=True)
class _Task:
    """What one process decodes."""

    kind: Literal["stream", "diffusers"]
    spec: PipelineSpec
    num_frames: int
    decoder: int = 0
    """Which one of ``num_decoders`` stretches of the video."""
    num_decoders: int = 1


@dataclass(frozen=True)
class _Result:
    num_frames: int
    """Frames that the process gave, without those of its warm-up."""
    wall_s: float
    cpu_s: float
    peak_bytes: int
    """Largest resident memory of the process."""
    decode_bytes: int
    """By how much decoding raised it."""


def time_decode(spec: PipelineSpec, lengths: tuple[int, ...], num_decoders: int, runs: int) -> None:
    """Decode videos of ``lengths`` frames and print speed, memory and ratios.

    Whatever else the machine does only slows a run down, so that the best of each kind is compared;
    kinds take turns, and the slowest is printed with it.
    """
    short, long = lengths[0], lengths[-1]
    kinds = {
        f"diffusers' vae.decode, {short} frames": [_Task("diffusers", spec, short)],
        **{f"1 decoder, {length} frames": [_Task("stream", spec, length)] for length in lengths},
        f"{num_decoders} decoders, {long} frames": [
            _Task("stream", spec, long, decoder, num_decoders) for decoder in range(num_decoders)
        ],
    }
    found: dict[str, list[list[_Result]]] = {kind: [] for kind in kinds}
    for _ in range(runs):
        for kind, tasks in kinds.items():
            found[kind].append(_run(tasks))
    for kind, results in found.items():
        click.echo(f"{kind}: {_line(results)}")
    base, *streams, several = found.values()
    one, longest = streams[0], streams[-1]
    _ratio("1 decoder against diffusers", one, base)
    _ratio(f"{num_decoders} decoders against diffusers", several, base)
    _ratio(f"{num_decoders} decoders against 1", several, longest)
    memory = _peak(longest) / _peak(one)
    click.echo(f"peak memory at {long} frames against {short}: {memory:.3f}x")


def _line(runs: list[list[_Result]]) -> str:
    wall = [_fps(results, "wall_s") for results in runs]
    cpu = [_fps(results, "cpu_s") for results in runs]
    own = max(result.decode_bytes for results in runs for result in results)
    return (
        f"{max(wall):.1f} frames/s (slowest run {min(wall):.1f}; by CPU time {max(cpu):.1f}, "
        f"{min(cpu):.1f}); peak memory {_peak(runs) / 1e6:.0f} MB, {own / 1e6:.0f} MB of it to "
        "decode"
    )


def _ratio(name: str, runs: list[list[_Result]], others: list[list[_Result]]) -> None:
    wall, cpu = (
        max(_fps(results, clock) for results in runs)
        / max(_fps(results, clock) for results in others)
        for clock in ("wall_s", "cpu_s")
    )
    click.echo(f"{name}: {wall:.2f}x (by CPU time {cpu:.2f}x)")


def _fps(results: list[_Result], clock: str) -> float:
    """Frames per second of processes that ran at once."""
    frames = sum(result.num_frames for result in results)
    return frames / max(getattr(result, clock) for result in results)


def _peak(runs: list[list[_Result]]) -> int:
    return max(result.peak_bytes for results in runs for result in results)


def _run(tasks: list[_Task]) -> list[_Result]:
    """Run every task in a process of its own, all at once."""
    context = get_context("spawn")
    start, results = context.Barrier(len(tasks)), context.SimpleQueue()
    processes = [
        context.Process(target=_decode, args=(task, start, results), daemon=True) for task in tasks
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a decoder process failed; its error is above")
    return [results.get() for _ in tasks]


def _decode(task: _Task, start: Any, results: Any) -> None:
    import torch

    from glc_ray.backbones import registry

    spec = task.spec
    torch.set_num_threads(spec.decode.threads)
    facts = registry.facts(spec.model)
    shape = list(facts.latents_shape(task.num_frames))
    shape[1] -= facts.leading_latent_frames
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    try:
        decode = _decoding(task, latents)
    except BaseException:
        start.abort()
        raise
    before, _ = _peak_bytes(), start.wait(timeout=600)
    wall, cpu = time.perf_counter(), time.process_time()
    num_frames = decode()
    wall_s, cpu_s = time.perf_counter() - wall, time.process_time() - cpu
    peak = _peak_bytes()
    results.put(_Result(num_frames, wall_s, cpu_s, peak, peak - before))


def _decoding(task: _Task, latents: Any) -> Any:
    """Load what ``task`` needs; the decode itself, which returns its number of frames."""
    import torch

    from glc_ray.backbones import registry
    from glc_ray.backbones.reference import whole_decode
    from glc_ray.media.decode_plan import plan_decode
    from glc_ray.media.stretch import decode_stretch

    model, options = task.spec.model, task.spec.decode
    if task.kind == "diffusers":
        whole = whole_decode(model, options)
        return lambda: whole(latents).shape[2]
    decoder = registry.load_frame_decoder(model, options, torch.device("cpu"))
    plan = plan_decode(
        decoder.facts,
        tuple(latents.shape),
        options.model_copy(update={"parallel": "stretches"}),
        num_frames=task.num_frames,
        num_decoders=task.num_decoders,
    )
    # Fewer stretches than decoders: the rest has nothing to do.
    parts = plan.stretches[task.decoder : task.decoder + 1]
    return lambda: sum(
        len(frames)
        for stretch in parts
        for _, frames in decode_stretch(decoder, latents, stretch, warmup=plan.warmup)
    )


def _peak_bytes() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
