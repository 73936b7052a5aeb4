"""Bench of a farm of thousands of workers, in a simulated time, by the real rules of dispatch."""

from __future__ import annotations

import math
import random
import resource
import time
from typing import TYPE_CHECKING

import click

from glc_ray.cli import FrontDoor

if TYPE_CHECKING:
    from glc_ray.runtime.simulate_farm import FarmModel, FarmRun

_TASKS_A_WORKER = 3
"""In flight, where nothing else is asked for: one that it computes, one on its way, and one for the
time in which its video's coordinator works."""
_ROUNDS = 10
"""Videos after one another in each place, where nothing else is asked for."""
_LATENCY_S = 0.005


@click.command(cls=FrontDoor)
@click.option("--workers", type=click.IntRange(min=1), default=1024, metavar="N", help="[1024]")
@click.option("--videos", type=click.IntRange(min=1), metavar="V",
              help="In the catalog. [10 times those in flight]")  # fmt: skip
@click.option("--in-flight", type=click.IntRange(min=1), metavar="V",
              help="Denoised at once: coordinators. [3 windows a worker]")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), default=20, metavar="N",
              help="Of each video. [20]")  # fmt: skip
@click.option("--latent-frames", type=click.IntRange(min=13), default=73, metavar="K",
              help="Of each video; 73 are 18 windows of 13 a step. [73]")  # fmt: skip
@click.option("--window-s", type=click.FloatRange(min=0, min_open=True), default=2.0, metavar="S",
              help="On a worker of speed 1. [2]")  # fmt: skip
@click.option("--coordinator-s", type=click.FloatRange(min=0), default=0.5, metavar="S",
              help="Between two steps of a video. [0.5]")  # fmt: skip
@click.option("--deaths-per-hour", type=click.FloatRange(min=0), default=0.01, metavar="P",
              help="Of each worker, at any time; back after a minute. [0.01]")  # fmt: skip
@click.option("--mixed/--alike", default=True, help="Speeds of 0.5, 1 and 2, or all 1. [mixed]")
def scale(
    workers: int,
    videos: int | None,
    in_flight: int | None,
    steps: int,
    latent_frames: int,
    window_s: float,
    coordinator_s: float,
    deaths_per_hour: float,
    mixed: bool,
) -> None:
    """A farm of thousands of workers in a simulated time: how busy it is, what deaths cost.

    Simulated are workers that compute, die and come back, and coordinators between steps; who gets
    which window is decided by the code that decides it on a cluster. Left out are transfers of
    more than a message, decoding and storage. No cluster is started.
    """
    from glc_ray.bench_pool import Load
    from glc_ray.runtime.simulate_farm import FarmModel, simulate_farm

    chance = random.Random(0)  # noqa: S311
    groups = Load((1.0,), latent_frames, window_s).groups
    in_flight = in_flight or math.ceil(_TASKS_A_WORKER * workers / len(groups))
    model = FarmModel(
        speeds=tuple(chance.choice((0.5, 1.0, 2.0)) if mixed else 1.0 for _ in range(workers)),
        num_videos=videos or _ROUNDS * in_flight,
        num_steps=steps,
        groups=groups,
        window_s=window_s,
        coordinator_s=coordinator_s,
        latency_s=_LATENCY_S,
        in_flight=in_flight,
        deaths_per_hour=deaths_per_hour,
    )
    start = time.perf_counter()
    run = simulate_farm(model)
    _show(model, run, time.perf_counter() - start)


def _show(model: FarmModel, run: FarmRun, took_s: float) -> None:
    bound_s = run.num_tasks * model.window_s / sum(model.speeds)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    click.echo(
        f"{model.num_videos:,} videos of {model.num_steps} steps of {len(model.groups)} windows, "
        f"{model.in_flight:,} in flight on {len(model.speeds):,} workers"
    )
    click.echo(
        f"occupancy {run.occupancy:.3f}; {run.makespan_s / 3600:.3f} h, {bound_s / 3600:.3f} h if "
        f"nobody ever waited or died: {bound_s / run.makespan_s:.3f}"
    )
    click.echo(
        f"{run.deaths} deaths, lost work {run.lost_s:.0f} s, {run.lost_share:.4%} of what counts"
    )
    click.echo(
        f"simulated {run.num_tasks:,} windows in {took_s:.0f} s, {run.num_tasks / took_s:,.0f} a "
        f"second, with {peak_mb:.0f} MB at most"
    )
