"""Bench of a catalog: everything of a run but the videos, which are simulated by doing nothing."""

from __future__ import annotations

import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from glc_ray.cli import FrontDoor


@click.command(cls=FrontDoor)
@click.option("--rows", "sizes", type=click.IntRange(min=1), multiple=True,
              default=(1000, 100_000), metavar="N", help="Repeatable. [1000 100000]")  # fmt: skip
@click.option("--stages", is_flag=True,
              help="Also through an actor of each stage, a block a row.")  # fmt: skip
def catalog(sizes: tuple[int, ...], stages: bool) -> None:
    """Catalogs of N rows through queue, graph and manifest, with videos that take no time; twice.

    The second time finds everything done. Without --stages rows go from the queue to the manifest
    by the graph's first stage alone, in blocks of many; with it they go through the stages that
    denoise and decode as videos do, and what is left out are latents, files and scores.
    """
    spawn = multiprocessing.get_context("spawn")
    peaks: list[float] = []
    for num_rows in sizes:
        # A process each: what it took at most is its own.
        receiver, sender = spawn.Pipe(duplex=False)
        process = spawn.Process(target=_measure, args=(num_rows, stages, sender))
        process.start()
        sender.close()
        first, second, peak_mb = receiver.recv()
        process.join()
        peaks.append(peak_mb)
        click.echo(
            f"{num_rows} rows: {first.total_s:.1f} s, {num_rows / first.total_s:.0f} rows/s; queue "
            f"at {num_rows / first.fill_s:.0f} rows/s, then {1000 * first.graph_s / num_rows:.2f} "
            f"ms a row; found done in {second.total_s:.1f} s; driver's peak memory {peak_mb:.0f} "
            f"MB, {peak_mb / peaks[0]:.2f} times that of {sizes[0]} rows"
        )


@dataclass(frozen=True)
class _Took:
    """Seconds of one run."""

    total_s: float
    """With the cluster's start and its end."""
    fill_s: float
    """Reading, checking and queueing."""
    graph_s: float
    """From the queue to the manifest."""


def _measure(num_rows: int, stages: bool, answer: Any) -> None:
    with tempfile.TemporaryDirectory(prefix="glc-ray-") as name:
        folder = Path(name)
        rows = folder / "catalog.jsonl"
        with rows.open("w") as file:
            for row in range(num_rows):
                file.write(json.dumps({"prompt": f"a red ball, take {row}", "seed": row}) + "\n")
        took = [_run(rows, folder / "out", stages) for _ in range(2)]
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    answer.send((*took, peak_mb))


def _run(rows: Path, output: Path, stages: bool) -> _Took:
    from glc_ray.catalog import CatalogJobs
    from glc_ray.pipeline_file import load_pipeline
    from glc_ray.runtime.run import Group, Run
    from glc_ray.store.output import Output

    place = Output(str(output))
    place.prepare()
    jobs = CatalogJobs("toyworld")
    start = time.perf_counter()
    with (
        Run(place, denoises=False, graph=_idle_graph(stages)) as run,
        run.connected("local", load_pipeline("toyworld")),
    ):
        begun = time.perf_counter()
        queue = run.fill(str(rows), jobs, strict=True, force=False)
        filled = time.perf_counter()
        groups = [Group(group.pipeline, group.source(place)) for group in queue.groups]
        for _ in run.render(groups, "local"):
            pass
        done = time.perf_counter()
    return _Took(time.perf_counter() - start, filled - begun, done - filled)


def _idle_graph(stages: bool) -> Any:
    """A graph whose stages do nothing, or that has but the first."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    from glc_ray.runtime.pipeline import Feed, Graph, RowSource
    from glc_ray.runtime.rows import Row, record_of
    from glc_ray.store.record import VideoRecord

    class IdleStage:
        def __call__(self, row: Row) -> Row:
            return row

    class IdleGraph(Graph):
        def records(self, source: RowSource, recorded: frozenset[str]) -> Iterator[VideoRecord]:
            context = DataContext.get_current()
            context.enable_progress_bars = False
            feed = Feed(source, recorded, self._farm.board)
            dataset = ray.data.from_items([{"source": 0}], override_num_blocks=1)
            dataset = dataset.flat_map(feed, num_cpus=0)
            if stages:
                # As in the graph that renders.
                context.target_max_block_size = 1
                actors = ActorPoolStrategy(size=1, max_tasks_in_flight_per_actor=1)
                dataset = dataset.map(IdleStage, compute=actors, num_cpus=0)
                # A need of its own: else both were one actor.
                dataset = dataset.map(IdleStage, compute=actors, num_cpus=0.5)
            for row in dataset.iter_rows():
                yield replace(record_of(row), status="done", finished_at=time.time())

    return IdleGraph
