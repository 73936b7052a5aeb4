"""An estimate as text, for a terminal of 40 columns or more."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from textwrap import wrap
from typing import TypeAlias

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from glc_ray.estimate.figures import Estimate, MemoryFigures, PerStep
from glc_ray.estimate.picture import Canvas, draw, legend
from glc_ray.protocols import StepPlan

Rows: TypeAlias = list[tuple[str, ...]]

_FLOP_UNITS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP")


def show(estimate: Estimate, first_step: StepPlan, console: Console) -> None:
    """Print everything that is known of a job before it starts."""
    say = _Sayer(console)
    video = estimate.video
    say.line(
        f"{video.method} over {video.num_frames} frames of {video.width}x{video.height}: "
        f"{video.num_latent_frames} latent frames in windows of {video.window_size}, "
        f"{video.num_steps} steps, pipeline {video.pipeline}"
    )
    is_ascii = not console.encoding.startswith("utf")
    canvas = Canvas(video.num_latent_frames, is_ascii=is_ascii, columns=console.width)
    say.title(f"Windows of the first step (timestep {first_step.timestep:g})")
    for line in draw(first_step, canvas):
        say.drawing(line)
    say.line(legend(canvas))
    say.title("Forwards")
    say.table(("path", "windows a step", "batches a step", "in all", "FLOPs"), _path_rows(estimate))
    say.line(_branches(estimate))
    say.title("Workers")
    say.table(*_workers(estimate))
    for line in _timing(estimate):
        say.line(line)
    say.title("Memory")
    say.table(("who, what", "bytes", "where"), _memory_rows(estimate))
    say.line(
        "together is to be less than a card's memory, of which the driver, torch and fragmentation "
        "take a share that is not estimated; without GPUs the device is main memory"
    )
    say.title("Between processes")
    say.table(("arrays", "a step", "in all"), _traffic_rows(estimate))
    if estimate.notes:
        say.title("Notes")
        for note in estimate.notes:
            say.line(note)


class _Sayer:
    """Prints text as it is: prompts and keys are no markup."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def title(self, text: str) -> None:
        self._console.print()
        self._console.print(Text(text, style="bold"))

    def line(self, text: str) -> None:
        for line in wrap(text, self._console.width):
            self.drawing(line)

    def drawing(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Rows) -> None:
        """Figures are on the right of their columns, words on the left."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for position, column in enumerate(columns):
            is_text = position == 0 or column == "where"
            # A number stays with its unit; words may take another line.
            table.add_column(column, justify="left" if is_text else "right", no_wrap=not is_text)
        for row in rows:
            table.add_row(*row)
        self._console.print(table)


def _path_rows(estimate: Estimate) -> Rows:
    forwards = estimate.forwards
    rows: Rows = [
        (
            path.path,
            _a_step(path.windows),
            _a_step(path.batches),
            f"{path.windows.total:,}",
            _flops(path.flops_per_window * path.windows.total),
        )
        for path in forwards.paths
    ]
    if len(rows) > 1:
        rows.append(
            (
                "together",
                _a_step(forwards.windows),
                _a_step(forwards.batches),
                f"{forwards.windows.total:,}",
                _flops(forwards.flops),
            )
        )
    return rows


def _branches(estimate: Estimate) -> str:
    path = estimate.forwards.paths[0]
    guidance = "both branches of" if estimate.forwards.guidance_branches == 2 else "without"
    flops = _flops(path.flops_per_window)
    return f"one forward of {path.clip_frames} latent frames: {flops}, {guidance} guidance"


def _workers(estimate: Estimate) -> tuple[tuple[str, ...], Rows]:
    """Columns and rows; seconds where they are known."""
    columns = ["workers", "extra anchors a step", "in all", "their FLOPs", "busy"]
    if estimate.timing is not None:
        columns += ["time", "speed-up"]
    rows = []
    for row in estimate.workers:
        cells = [
            f"{row.workers}{' <' if row.is_chosen else ''}",
            _a_step(row.anchor_forwards),
            f"{row.anchor_forwards.total:,}",
            _flops(row.anchor_flops),
            f"{row.busy_share:.0%}",
        ]
        if row.total_s is not None and row.speed_up is not None:
            cells += [_duration(row.total_s), f"{row.speed_up:.2f}x"]
        rows.append(tuple(cells))
    return tuple(columns), rows


def _timing(estimate: Estimate) -> Iterator[str]:
    timing = estimate.timing
    if timing is None:
        yield (
            "seconds are unknown: give --seconds-per-forward S, or --measure them here; busy is "
            "computed from operations"
        )
        return
    yield (
        f"from {timing.seconds_per_window:.3g} s a window, {timing.source}; workers are alike, "
        "transfers take no time; < marks the job's own number"
    )
    if timing.batches:
        spread = max((b.slowest_s - b.fastest_s) / b.median_s for b in timing.batches)
        yield (
            f"{len(timing.batches)} kinds of batch, 3 times each, with nobody beside (workers that "
            f"share cores or a GPU are slower); widest spread {spread:.0%}"
        )
    if timing.coordinator_step_s is not None:
        yield f"the coordinator's {timing.coordinator_step_s:.3g} s a step are among them"
    yield "time is that of denoising: loading, decoding and encoding come on top"


def _memory_rows(estimate: Estimate) -> Rows:
    memory = estimate.memory
    where = "device"
    if memory.weights_at_once_bytes != memory.weights_bytes:
        where = f"main memory; about {decimal(memory.weights_at_once_bytes)} on device"
    return [
        ("worker: weights", decimal(memory.weights_bytes), where),
        ("worker: activations", decimal(memory.activations_bytes), "device; an estimate"),
        *_anchor_rows(memory),
        ("worker: while denoising", decimal(memory.denoising_device_bytes), "device, together"),
        ("one worker: text encoder", decimal(memory.text_encoder_bytes), "device, to encode"),
        ("one worker: while encoding", decimal(memory.encoding_device_bytes), "device, together"),
        ("coordinator: latents", decimal(memory.latents_bytes), "fusion: twice more"),
        ("decoder: VAE weights", decimal(memory.vae_bytes), "device; activations unknown"),
        ("checkpoint", decimal(memory.checkpoint_bytes), "output; an estimate"),
    ]


def _anchor_rows(memory: MemoryFigures) -> Rows:
    places = {"device": "device", "cpu": "main memory", "recompute": "kept nowhere"}
    return [
        (
            f"worker: anchor, cache = {cache.placement}{' <' if cache.is_chosen else ''}",
            decimal(cache.device_bytes + cache.cpu_bytes),
            places[cache.placement],
        )
        for cache in memory.anchor_caches
    ]


def _traffic_rows(estimate: Estimate) -> Rows:
    traffic = estimate.traffic
    parts = (
        ("clips to workers", traffic.clips_bytes),
        ("predictions back", traffic.predictions_bytes),
        ("anchors' clips", traffic.anchors_bytes),
    )
    return [
        (name, _a_step(size, decimal), decimal(size.total)) for name, size in parts if size.total
    ]


def _a_step(count: PerStep, text: Callable[[int], str] = str) -> str:
    if count.least == count.most:
        return text(count.least)
    return f"{text(count.least)}-{text(count.most)}"


def _flops(count: int) -> str:
    size = float(count)
    for unit in _FLOP_UNITS[:-1]:
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} {_FLOP_UNITS[-1]}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
