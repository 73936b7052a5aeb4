"""Bench of a catalog: everything of a run but the videos, which are simulated by doing nothing."""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from glc_ray.cli import FrontDoor


@click.command(cls=FrontDoor)
@click.option("--rows", "sizes", type=click.IntRange(min=1), multiple=True,
              default=(1000, 100_000), metavar="N", help="Repeatable. [1000 100000]")  # fmt: skip
def catalog(sizes: tuple[int, ...]) -> None:
    """Catalogs of N rows through queue, graph and manifest, with stages that do nothing; twice.

    The second time finds everything done.
    """
    spawn = multiprocessing.get_context("spawn")
    peaks: list[float] = []
    for num_rows in sizes:
        # A process each: what it took at most is its own.
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_measure, args=(num_rows, sender))
        process.start()
        sender.close()
        first_s, second_s, peak_mb = receiver.recv()
        process.join()
        peaks.append(peak_mb)
        click.echo(
            f"{num_rows} rows: {first_s:.1f} s, {num_rows / first_s:.0f} rows/s; found done in "
            f"{second_s:.1f} s; driver's peak memory {peak_mb:.0f} MB, {peak_mb / peaks[0]:.2f} "
            f"times that of {sizes[0]} rows"
        )


def _measure(num_rows: int, answer: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="glc-ray-") as name:
        folder = Path(name)
        rows = folder / "catalog.jsonl"
        with rows.open("w") as file:
            for row in range(num_rows):
                file.write(json.dumps({"prompt": f"a red ball, take {row}", "seed": row}) + "\n")
        seconds = [_run(rows, folder / "out") for _ in range(2)]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    answer.send((*seconds, peak_mb))


def _run(rows: Path, output: Path) -> float:
    from glc_ray.catalog import CatalogJobs
    from glc_ray.pipeline_file import load_pipeline
    from glc_ray.runtime.run import Group, Run
    from glc_ray.store.output import Output

    place = Output(str(output))
    place.prepare()
    jobs = CatalogJobs("toyworld")
    start = time.perf_counter()
    with (
        Run(place, denoises=False, graph=_idle_graph()) as run,
        run.connected("local", load_pipeline("toyworld")),
    ):
        queue = run.fill(str(rows), jobs, strict=True, force=False)
        groups = [Group(group.pipeline, group.source(place)) for group in queue.groups]
        for _ in run.render(groups, "local"):
            pass
    return time.perf_counter() - start


def _idle_graph() -> Any:
    """A graph whose stages do nothing."""
    import ray
    from ray.data import DataContext

    from glc_ray.runtime.pipeline import Feed, Graph, RowSource
    from glc_ray.runtime.rows import record_of
    from glc_ray.store.record import VideoRecord

    class IdleGraph(Graph):
        def records(self, source: RowSource, recorded: frozenset[str]) -> Iterator[VideoRecord]:
            DataContext.get_current().enable_progress_bars = False
            feed = Feed(source, recorded, self._farm.board)
            dataset = ray.data.from_items([{"source": 0}], override_num_blocks=1)
            for row in dataset.flat_map(feed, num_cpus=0).iter_rows():
                yield replace(record_of(row), status="done", finished_at=time.time())

    return IdleGraph
