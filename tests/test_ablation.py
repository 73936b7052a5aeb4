"""``pipelines/ablation``: its prompts and its report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner

from glc_ray.catalog import CatalogJobs
from glc_ray.comparison.design import design, read_prompts
from glc_ray.comparison.scores import score_of
from glc_ray.comparison.statistics import Estimate
from glc_ray.comparison.table import Row
from glc_ray.comparison.variants import ABLATION, parse_variants
from glc_ray.store.output import Output
from tests.comparison.outputs import finish

PIPELINES = Path(__file__).parents[1] / "pipelines"


@pytest.fixture(scope="module")
def report() -> Iterator[ModuleType]:
    sys.path.insert(0, str(PIPELINES / "ablation"))
    import report

    yield report
    sys.path.remove(str(PIPELINES / "ablation"))


def rows(means: dict[str, float], score: str = "toyworld.shape") -> list[Row]:
    """A row a variant, its difference from the first being certain."""
    first = next(iter(means.values()))
    return [
        Row(
            145,
            variant,
            score_of(score),
            Estimate(mean, None, None, 5, ""),
            Estimate(mean - first, mean - first, mean - first, 5, "prompts") if number else None,
        )
        for number, (variant, mean) in enumerate(means.items())
    ]


def test_its_prompts_are_sentences_that_no_training_clip_shows() -> None:
    sys.path.insert(0, str(PIPELINES / "toyworld"))
    try:
        from world import HELD_OUT
    finally:
        sys.path.remove(str(PIPELINES / "toyworld"))
    prompts = read_prompts(str(PIPELINES / "ablation" / "prompts.txt"))
    assert prompts == [str(caption) for caption in HELD_OUT[:30]]


def test_orderings_say_who_is_first_and_what_each_part_gives(report: ModuleType) -> None:
    found = "\n".join(
        report.orderings(
            [
                *rows({"glc": 0.8, "glc-vmcr": 0.7, "glc-abam": 0.9, "direct": 0.1}),
                *rows({"glc": 0.2, "glc-vmcr": 0.2, "glc-abam": 0.3, "direct": 0.1}, "drift"),
                *rows({"glc": 0.2, "glc-vmcr": 0.2, "glc-abam": 0.2, "direct": 0.2}, "seam"),
            ]
        )
    )
    assert "glc has the best mean in 1 of the 2 scores in which they differ" in found
    assert "ahead of it are direct (drift)." in found
    assert "| vmcr | 0 | 1 | 2 | 2.03 |" in found
    assert "| abam | 1 | 1 | 1 | – |" in found
    assert "direct |" not in found


def test_every_part_of_the_paper_is_among_the_ablations(report: ModuleType) -> None:
    assert set(report.PAPER_LOSSES) <= set(ABLATION)
    assert set(report.BASELINES) <= set(ABLATION)


def test_a_bucket_is_refused_before_anything_is_rendered(report: ModuleType) -> None:
    import run

    for option in ("--output", "--results"):
        done = CliRunner().invoke(run.main, [option, "s3://bucket/ablation"])
        assert (done.exit_code, "no URIs" in done.output) == (2, True)


def test_every_length_has_a_page_of_its_own(report: ModuleType, tmp_path: Path) -> None:
    for frames in (145, 289):
        found = rows({"glc": 0.8, "direct": 0.1})
        length = report.Length(frames, 5, 1, found, f"differences-{frames}.svg", "", "table.csv")
        page = report.write_report(tmp_path, length, {"sampling.num_steps": 2})
        text = page.read_text()
        assert text.startswith(f"# {frames} frames\n\n5 held-out prompts with one seed each")
        assert "`sampling.num_steps=2`" in text
        assert f"![Differences from glc with their intervals](differences-{frames}.svg)" in text
    assert {file.name for file in tmp_path.iterdir()} == {"145.md", "289.md"}


def test_lengths_after_one_that_failed_are_reported(
    report: ModuleType, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import run

    from glc_ray.render_catalog import CatalogEnd

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    prompts = read_prompts(str(PIPELINES / "ablation" / "prompts.txt"))[:1]
    for frames in (33, 37):
        place = Output(str(tmp_path / "made" / str(frames)))
        folder = tmp_path / f"clips-{frames}"
        folder.mkdir()
        plan = design(parse_variants(["glc", "direct"]), prompts, (0,), (frames,))
        cells = plan.cells(CatalogJobs(str(tiny_pipeline)))
        finish(place, folder, cells, num_frames=frames)

    whole = run.compare

    def with_a_failure(*args: object, **options: object) -> object:
        end = CatalogEnd("out", 3, done=2, failed=1, cancelled=0, invalid=0, skipped=0, repeated=0)
        found = whole(*args, **options)
        return replace(found, end=end) if options["num_frames"] == (33,) else found

    monkeypatch.setattr(run, "compare", with_a_failure)
    done = CliRunner().invoke(
        run.main,
        [
            *("--output", "~/made", "--results", "~/pages", "--no-render"),
            *("--pipeline", str(tiny_pipeline), "--methods", "glc,direct", "--scores", "sharpness"),
            *("--length", "33", "1", "--length", "37", "1"),
        ],
    )
    assert done.exit_code == 1, done.output
    assert "1 failed and 0 invalid of 3" in done.output
    assert {page.name for page in (tmp_path / "pages").glob("*.md")} == {"33.md", "37.md"}
    assert "| glc | " in (tmp_path / "pages" / "37.md").read_text()
    assert not (tmp_path / "~").exists()
