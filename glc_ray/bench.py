"""Front door: ``python -m glc_ray.bench``: what the pool costs and gains, against one process.

Prints ratios, since seconds are the machine's.
"""

from __future__ import annotations

import time

import click

from glc_ray.cli import FrontDoor
from glc_ray.pipeline_file import load_pipeline, parse_assignment


@click.command(cls=FrontDoor)
@click.option("--pipeline", default="toyworld", metavar="NAME|FILE.yaml", help="[toyworld]")
@click.option("--workers", "counts", type=int, multiple=True, default=(1, 2), metavar="N",
              help="Denoiser actors; repeatable. [1 2]")  # fmt: skip
@click.option("--set", "assignments", multiple=True, metavar="KEY.PATH=VALUE", help="Repeatable.")
@click.option("--address", metavar="RAY", help="A running cluster; default: as for render.")
def main(
    pipeline: str, counts: tuple[int, ...], assignments: tuple[str, ...], address: str | None
) -> None:
    """Denoise the same job in this process and on N workers: seconds, ratios, same bits."""
    import ray
    import torch

    from glc_ray.job import build_job
    from glc_ray.runtime.board import Board
    from glc_ray.runtime.cluster import connected
    from glc_ray.runtime.coordinator import Coordinator
    from glc_ray.runtime.pool import start_denoisers
    from glc_ray.sampler import LocalDenoiser, sample_job, torch_threads

    overrides = [*map(parse_assignment, assignments)]
    spec = load_pipeline(pipeline, [*overrides, ("resources.denoisers.count", max(counts))])
    job = build_job(spec, None, 0)
    denoiser = LocalDenoiser.of(job, torch.device("cpu"))
    start = time.perf_counter()
    with torch_threads(spec.fuse.threads):
        expected = sample_job(job, denoiser)
    local_s = time.perf_counter() - start
    click.echo(f"in process, {spec.denoise.threads} thread(s): {local_s:.1f} s")
    with connected(address, spec):
        workers = start_denoisers(spec)
        board = ray.remote(Board).options(num_cpus=0).remote()
        for count in counts:
            coordinator = ray.remote(Coordinator).options(num_cpus=0)
            actor = coordinator.remote(workers[:count], board, spec.fuse.threads)
            latents, timings = ray.get(actor.denoise.remote(job, "bench"))
            seconds = timings.denoise_s + timings.fuse_s + timings.update_s
            per_window_ms = 1000 * timings.forward_s / timings.num_windows
            click.echo(
                f"{count} worker(s): {seconds:.1f} s, {local_s / seconds:.2f}x; "
                f"{per_window_ms:.0f} ms a window forward; "
                f"outside of the model {1 - timings.forward_s / count / seconds:.1%}; "
                f"same bits: {torch.equal(torch.tensor(latents), expected)}"
            )


if __name__ == "__main__":
    main()
