"""Front door: ``python -m glc_ray.bench``: what the cluster's parts cost and gain, as ratios.

``denoise`` (the default): the pool against one process; ``coordinator``: fusion and refinement
beside the model; ``decode``: the streamed decode against diffusers', on one and two decoders;
``dispatch``: denoisers that sleep on the real pool; ``scale``: thousands of workers, simulated;
``catalog``: a catalog of 100,000 videos that are simulated by doing nothing.
"""

from __future__ import annotations

import tempfile
import time

import click

from glc_ray.bench_catalog import catalog
from glc_ray.bench_decode import time_decode
from glc_ray.bench_dispatch import dispatch
from glc_ray.bench_scale import scale
from glc_ray.cli import FrontDoor
from glc_ray.config import PipelineSpec
from glc_ray.pipeline_file import load_pipeline, parse_assignment

_COGVIDEOX_2B_FORWARD_S = 120 / 400
"""Of one window with guidance: 120 TFLOP on a device that gives 400 TFLOP/s, to compare with."""

_PIPELINE = click.option(
    "--pipeline", default="toyworld", metavar="NAME|FILE.yaml", help="[toyworld]"
)
_SET = click.option(
    "--set", "assignments", multiple=True, metavar="KEY.PATH=VALUE", help="Repeatable."
)


class _Group(click.Group):
    """``denoise`` where no other bench is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        named = bool(args) and (args[0] in self.commands or args[0] == "--help")
        return super().parse_args(ctx, args if named else ["denoise", *args])


@click.group(cls=_Group, short_help="What the cluster's parts cost and gain: ratios.")
def main() -> None:
    """What the cluster's parts cost and gain: ratios, since seconds are the machine's."""


main.add_command(catalog)
main.add_command(dispatch)
main.add_command(scale)


@main.command(cls=FrontDoor)
@_PIPELINE
@click.option("--workers", "counts", type=int, multiple=True, default=(1, 2), metavar="N",
              help="Denoiser actors; repeatable. [1 2]")  # fmt: skip
@_SET
@click.option("--address", metavar="RAY", help="A running cluster; default: as for render.")
def denoise(
    pipeline: str, counts: tuple[int, ...], assignments: tuple[str, ...], address: str | None
) -> None:
    """Denoise the same job in this process and on N workers: seconds, ratios, same bits."""
    _time_pool(pipeline, counts, assignments, address)


@main.command(cls=FrontDoor)
@click.argument("lengths", nargs=-1, type=click.IntRange(min=13), required=True, metavar="K...")
@_PIPELINE
@_SET
def coordinator(lengths: tuple[int, ...], pipeline: str, assignments: tuple[str, ...]) -> None:
    """Fusion and refinement alone, for K latent frames of CogVideoX's size.

    That is 16x60x90 in windows of 13, with random predictions.
    """
    spec = load_pipeline(pipeline, map(parse_assignment, assignments))
    for num_latent_frames in lengths:
        _time_coordinator(num_latent_frames, spec)


@main.command(cls=FrontDoor)
@_PIPELINE
@click.option("--frames", "lengths", type=click.IntRange(min=1), multiple=True,
              default=(481, 4801), metavar="N",
              help="Pixel frames of a video; repeatable. [481 4801]")  # fmt: skip
@click.option("--decoders", type=click.IntRange(min=1), default=2, metavar="N",
              help="Processes that share the longest. [2]")  # fmt: skip
@click.option("--runs", type=click.IntRange(min=1), default=3, metavar="N",
              help="Of each kind; the best ones are compared. [3]")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), default=1, metavar="N",
              help="Of each process. [1]")  # fmt: skip
@_SET
def decode(
    pipeline: str,
    lengths: tuple[int, ...],
    decoders: int,
    runs: int,
    threads: int,
    assignments: tuple[str, ...],
) -> None:
    """Memory and speed of the streamed decode, against diffusers' vae.decode in one process.

    The latents are random and of the model's size, and frames are counted, not encoded.
    """
    overrides = [*map(parse_assignment, assignments), ("decode.threads", threads)]
    spec = load_pipeline(pipeline, overrides)
    time_decode(spec, tuple(sorted(set(lengths))), decoders, runs)


def _time_coordinator(num_latent_frames: int, spec: PipelineSpec) -> None:
    """Print what a step of GLC costs beside the model, and its share of the model's time."""
    import torch

    from glc_ray.core.fusion import Fusion
    from glc_ray.methods.glc import GLC
    from glc_ray.protocols import StepResult
    from glc_ray.sampler import torch_threads

    glc = GLC(num_latent_frames=num_latent_frames, window_size=13, seed=0, options=spec.glc)
    plan = glc.plan(0, 999)
    latents, prediction = (torch.randn(1, frames, 16, 60, 90) for frames in (num_latent_frames, 13))
    fuse_s, update_s = [], []
    with torch_threads(spec.fuse.threads), torch.no_grad():
        for _ in range(5):
            start = time.perf_counter()
            fusion = Fusion(plan, latents.shape)
            for window in plan.windows:
                fusion.add(window, prediction)
            fused = fusion.result()
            middle = time.perf_counter()
            glc.update(StepResult(latents, fused, signal_scale=0.5))
            fuse_s.append(middle - start)
            update_s.append(time.perf_counter() - middle)
    seconds = min(fuse_s) + min(update_s)
    model_s = _COGVIDEOX_2B_FORWARD_S * len(plan.windows)
    click.echo(
        f"{num_latent_frames} latent frames, {len(plan.windows)} windows, {spec.fuse.threads} "
        f"thread(s): fuse {min(fuse_s):.3f} s, refine {min(update_s):.3f} s a step; "
        f"{seconds / model_s:.1%} of {model_s:.1f} s of forwards (120 TFLOP each at 400 TFLOP/s)"
    )


def _time_pool(
    pipeline: str, counts: tuple[int, ...], assignments: tuple[str, ...], address: str | None
) -> None:
    import ray
    import torch

    from glc_ray.job import build_job
    from glc_ray.runtime.cluster import connected
    from glc_ray.runtime.coordinator import start_coordinator
    from glc_ray.runtime.denoiser import start_denoisers
    from glc_ray.runtime.farm import start_farm
    from glc_ray.runtime.rows import video_id
    from glc_ray.sampler import LocalDenoiser, sample_job, torch_threads
    from glc_ray.store.latents import load_latents
    from glc_ray.store.output import Output
    from glc_ray.store.paths import work_latents_path

    overrides = [*map(parse_assignment, assignments)]
    spec = load_pipeline(pipeline, [*overrides, ("resources.denoisers.count", max(counts))])
    job = build_job(spec, None, 0)
    denoiser = LocalDenoiser.of(job, torch.device("cpu"))
    start = time.perf_counter()
    with torch_threads(spec.fuse.threads):
        expected = sample_job(job, denoiser)
    local_s = time.perf_counter() - start
    click.echo(f"in process, {spec.denoise.threads} thread(s): {local_s:.1f} s")
    with connected(address, spec), tempfile.TemporaryDirectory(prefix="glc-ray-") as folder:
        workers = start_denoisers(spec)
        for count in counts:
            farm = start_farm(folder, workers[:count], spec.resources.denoisers)
            coordinator = start_coordinator(farm, threads=spec.fuse.threads, max_restarts=0)
            timings = ray.get(coordinator.denoise.remote(job, "bench"))
            latents, _ = load_latents(Output(folder), work_latents_path(video_id(job)))
            seconds = timings.denoise_s + timings.fuse_s + timings.update_s
            per_window_ms = 1000 * timings.forward_s / timings.num_windows
            click.echo(
                f"{count} worker(s): {seconds:.1f} s, {local_s / seconds:.2f}x; "
                f"{per_window_ms:.0f} ms a window forward; "
                f"outside of the model {1 - timings.forward_s / count / seconds:.1%}; "
                f"same bits: {torch.equal(latents, expected)}"
            )


if __name__ == "__main__":
    main()
