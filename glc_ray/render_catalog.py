"""Many videos from a catalog: ``from glc_ray.render_catalog import render_catalog``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from glc_ray.cli import RenderError
from glc_ray.options import asked_for


@dataclass(frozen=True)
class CatalogEnd:
    """What became of a catalog."""

    output: str
    """Where the videos are, for people."""
    total: int
    """Videos that it asks for, and rows that ask for none."""
    done: int
    """Rendered now."""
    failed: int
    cancelled: int
    invalid: int
    """Rows that are no video."""
    skipped: int
    """Done before."""
    repeated: int
    """Asked for by an earlier row, too."""
    report: str = ""
    """Where the report page is, for people; empty: none was asked for."""
    first_failure: str = ""
    """Name, error and log file of the first video that failed."""

    def tell(self, echo: Callable[[str], None]) -> None:
        """In words.

        Raises:
            RenderError: a video failed, or a row was invalid.
        """
        counts = {
            "done": self.done,
            "done before": self.skipped,
            "asked for twice": self.repeated,
            "cancelled": self.cancelled,
            "failed": self.failed,
            "invalid": self.invalid,
        }
        echo(f"{self.total} videos: {', '.join(f'{n} {name}' for name, n in counts.items() if n)}")
        echo(f"in {self.output}; `glc-ray status {self.output}` tells more")
        if self.report:
            echo(f"report         {self.report}")
        if self.failed or self.invalid:
            first = f"\nthe first: {self.first_failure}" if self.first_failure else ""
            raise RenderError(
                f"{self.failed} failed and {self.invalid} invalid of {self.total}; the manifest "
                f"says why. The same command again tries what failed once more{first}"
            )


def render_catalog(
    catalog: str,
    *,
    pipeline: str | None = None,
    seed: int | None = None,
    num_frames: int | None = None,
    fps: float | None = None,
    steps: int | None = None,
    guidance_scale: float | None = None,
    workers: int | None = None,
    method: str | None = None,
    preview_every: int | None = None,
    options: Mapping[str, Any] | None = None,
    output: str = "output",
    address: str | None = None,
    keep_latents: bool = False,
    strict: bool = False,
    samples_per_prompt: int = 1,
    naming: str = "default",
    force: bool = False,
    report: bool = True,
    wait: bool = False,
    stops: bool = False,
    quiet: bool = True,
) -> CatalogEnd:
    """Render the videos of a catalog that the output does not have yet, on Ray.

    Args:
        catalog: path or URI of a .jsonl, .csv, .parquet or .txt file; see ``CatalogJobs``.
        pipeline, seed, num_frames, fps, steps, guidance_scale, method, options: as of ``render``,
            for rows that do not say otherwise.
        workers: denoiser actors.
        preview_every: as of ``render``, for every video.
        output: folder or URI.
        address: of a running Ray cluster; None uses a running one and else starts one here.
        keep_latents: store final latents, too.
        strict: refuse the whole catalog where a row is invalid.
        samples_per_prompt: videos of each row.
        naming: of rows without a name: default or vbench.
        force: render also what is done already.
        report: keep the page ``report/index.html`` of the output up to date.
        wait: for another run on the output to end; otherwise that is an error.
        stops: SIGTERM and SIGINT store what is in work and raise StoppedError.
        quiet: show no progress.

    Raises:
        UserError: the request or, if ``strict``, a row cannot be rendered; nothing was started.
        StoppedError: a signal asked for the end.
    """
    from glc_ray.catalog import CatalogJobs
    from glc_ray.display import shown
    from glc_ray.pipeline_file import load_pipeline
    from glc_ray.runtime.run import Group, Run
    from glc_ray.store.output import Output
    from glc_ray.store.paths import REPORT_PAGE

    asked = asked_for(
        options,
        num_frames=num_frames,
        fps=fps,
        steps=steps,
        workers=workers,
        guidance_scale=guidance_scale,
        method=method,
        preview_every=preview_every,
    )
    name = pipeline or "toyworld"
    jobs = CatalogJobs(
        name,
        asked,
        seed or 0,
        samples_per_prompt=samples_per_prompt,
        naming=naming,  # type: ignore[arg-type]
    )
    place = Output(output)
    place.prepare()
    first_failure = ""
    with Run(place, keep_latents=keep_latents, waits=wait, stops=stops, report=report) as run:
        spec = load_pipeline(name, asked)
        with run.connected(address, spec):
            queue = run.fill(catalog, jobs, strict=strict, force=force)
            groups = [Group(group.pipeline, group.source(place)) for group in queue.groups]
            with shown(run.progress, queue.queued, quiet, spec.resources.log_format):
                for record in run.render(groups, address):
                    if record.status == "failed" and not first_failure:
                        first_failure = record.failure
    ended = run.ended
    return CatalogEnd(
        output=place.uri(),
        total=queue.total,
        done=ended["done"],
        failed=ended["failed"],
        cancelled=ended["cancelled"],
        invalid=queue.invalid,
        skipped=queue.done,
        repeated=queue.repeated,
        report=place.uri(REPORT_PAGE) if report else "",
        first_failure=first_failure,
    )
