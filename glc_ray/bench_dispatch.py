"""Bench of the dispatch: simulated denoisers, that sleep, on the real pool, beside the same load in
the simulation."""

from __future__ import annotations

import math
import statistics
from itertools import cycle, islice
from typing import TYPE_CHECKING

import click

from glc_ray.cli import FrontDoor

if TYPE_CHECKING:
    from glc_ray.bench_pool import Load, MessageCosts, PoolRun
    from glc_ray.runtime.simulate_farm import FarmModel

_MIXED = (0.5, 1.0, 2.0)


@click.command(cls=FrontDoor)
@click.option("--workers", type=click.IntRange(min=1), default=8, metavar="N",
              help="Simulated denoisers. [8]")  # fmt: skip
@click.option("--latent-frames", type=click.IntRange(min=13), default=301, metavar="K",
              help="Of each video; 301 are 74 windows of 13. [301]")  # fmt: skip
@click.option("--window-s", type=click.FloatRange(min=0, min_open=True), default=0.05, metavar="S",
              help="Each sleeps for a window. [0.05]")  # fmt: skip
@click.option("--videos", type=click.IntRange(min=1), default=1, metavar="V",
              help="In flight at once. [1]")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), default=4, metavar="N",
              help="Of each video. [4]")  # fmt: skip
@click.option("--coordinator-s", type=click.FloatRange(min=0), default=0.0, metavar="S",
              help="Each coordinator sleeps between steps. [0]")  # fmt: skip
@click.option("--telemetry-pairs", "pairs", type=click.IntRange(min=0), default=0, metavar="N",
              help="Compare telemetry on and off, N times one after the other. [0]")  # fmt: skip
@click.option("--check", is_flag=True,
              help="Mixed speeds, a death, and how far the simulation is off.")  # fmt: skip
def dispatch(
    workers: int,
    latent_frames: int,
    window_s: float,
    videos: int,
    steps: int,
    coordinator_s: float,
    pairs: int,
    check: bool,
) -> None:
    """Windows through the real pool to denoisers that only sleep: share of the ideal.

    The ideal are full rounds of all workers. Beside it, what the simulation foresees; with --check
    it is told what messages cost one worker here, and workers differ, of which one dies.
    """
    from glc_ray.bench_pool import Load, MessageCosts, message_costs, sleepers_job, through_the_pool
    from glc_ray.runtime.cluster import connected

    load = Load(
        speeds=tuple(islice(cycle(_MIXED if check else (1.0,)), workers)),
        latent_frames=latent_frames,
        window_s=window_s,
        num_videos=videos,
        num_steps=steps,
        coordinator_s=coordinator_s,
        killed=((0, window_s),) if check else (),
    )
    with connected("local", sleepers_job(load).pipeline):
        if pairs:
            _compare(load, pairs)
            return
        costs = message_costs(window_s) if check else MessageCosts(0.0, 0.0)
        run = through_the_pool(load)
    _show(load, run, costs)


def farm_model(load: Load, costs: MessageCosts, restart_s: float) -> FarmModel:
    """The same load for the simulation."""
    from glc_ray.runtime.simulate_farm import FarmModel

    return FarmModel(
        speeds=load.speeds,
        num_videos=load.num_videos,
        num_steps=load.num_steps,
        groups=load.groups,
        window_s=load.window_s,
        coordinator_s=load.coordinator_s,
        latency_s=costs.latency_s,
        task_s=costs.task_s,
        in_flight=load.num_videos,
        killed=load.killed,
        restart_s=restart_s,
    )


def _compare(load: Load, pairs: int) -> None:
    """Print what telemetry costs: pairs of runs, of which the first is on and off in turn, since
    the seconds of a shared machine drift."""
    from glc_ray.bench_pool import through_the_pool

    ratios = []
    for pair in range(pairs):
        took = {
            is_on: through_the_pool(load, telemetry=is_on).seconds
            for is_on in ((True, False) if pair % 2 else (False, True))
        }
        ratios.append(took[True] / took[False])
        click.echo(f"on {took[True]:.3f} s, off {took[False]:.3f} s: {ratios[-1]:.4f}")
    click.echo(
        f"with telemetry on against off, median of {pairs} pairs: {statistics.median(ratios):.4f}"
    )


def _show(load: Load, run: PoolRun, costs: MessageCosts) -> None:
    from glc_ray.runtime.simulate_farm import simulate_farm

    foreseen = simulate_farm(farm_model(load, costs, run.restart_s))
    num_workers, num_tasks = len(load.speeds), len(load.groups)
    step_s = run.seconds / load.num_steps
    click.echo(
        f"{load.num_videos} video(s) of {load.num_steps} steps of {num_tasks} windows of "
        f"{1000 * load.window_s:.0f} ms, {num_workers} simulated workers: "
        f"{step_s / load.num_videos:.3f} s a step"
    )
    if load.killed:
        click.echo(
            f"a message costs {1000 * costs.latency_s:.1f} ms where a worker waits for it, "
            f"{1000 * costs.task_s:.1f} ms where the next window is there; worker "
            f"{load.killed[0][0]} died, and was back after {run.restart_s:.1f} s"
        )
    elif load.num_videos == 1:
        ideal_s = math.ceil(num_tasks / num_workers) * load.window_s
        share = ideal_s / (step_s - load.coordinator_s)
        click.echo(f"share of the ideal ({ideal_s:.2f} s): {share:.3f}")
    occupancy = run.busy_s / run.seconds / num_workers
    simulated = foreseen.busy_s / foreseen.makespan_s / num_workers
    click.echo(
        f"occupancy {occupancy:.3f}, in the simulation {simulated:.3f} "
        f"({simulated / occupancy - 1:+.1%}); seconds {run.seconds:.2f}, in the simulation "
        f"{foreseen.makespan_s:.2f}; windows given out {run.grants}, in the simulation "
        f"{foreseen.num_grants}"
    )
    costs_ms = (f"{kind} {1000 * s / run.num_windows:.2f} ms" for kind, s in run.cpu_s.items())
    click.echo(f"CPU time a window: {', '.join(costs_ms)}")
