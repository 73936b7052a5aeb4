"""A comparison from the command to its page, on real Ray."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from glc_ray.cli import RenderError
from glc_ray.compare import Comparison, compare
from glc_ray.render_catalog import CatalogEnd
from glc_ray.store import manifest
from glc_ray.store.output import Output


@pytest.mark.slow
def test_methods_are_compared_and_gone_on_with(
    ray_cluster: None, tiny_pipeline: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"

    def run(methods: str, seeds: tuple[int, ...]) -> Comparison:
        return compare(
            ["a red ball", "a blue box"],
            methods.split(","),
            seeds=seeds,
            num_frames=(33,),
            pipeline=str(tiny_pipeline),
            scores=("change",),
            output=str(output),
        )

    def ended(found: Comparison) -> CatalogEnd:
        assert found.end is not None
        return found.end

    # glc:paper is what glc is: one video, shown twice.
    first = run("glc,glc:paper,glc-glcd,direct", (0,))
    assert (ended(first).done, ended(first).repeated) == (6, 2)
    by_variant = {row.variant: row for row in first.rows if row.score.name == "temporal_flickering"}
    assert by_variant["glc:paper"].difference is not None
    assert by_variant["glc:paper"].difference.mean == 0
    assert by_variant["direct"].value != by_variant["glc-glcd"].value
    forwards = {row.variant: row.value for row in first.rows if row.score.name == "forwards"}
    assert forwards["glc-glcd"] == forwards["direct"]
    assert Path(first.page).is_file()
    assert len(list((output / "comparison" / "videos").iterdir())) == 2

    pages = [file.read_text() for file in (output / "report" / "data" / "videos").glob("*.js")]
    shown = [json.loads(page[page.index("(") + 1 : page.rindex(")")]) for page in pages]
    assert len(shown) == 6
    assert all("temporal_flickering" in video["evaluation"]["values"] for video in shown)

    again = run("glc,glc:paper,glc-glcd,direct", (0,))
    assert (ended(again).done, ended(again).skipped) == (0, 6)
    assert again.rows == first.rows

    # More seeds: what is there stays.
    more = run("glc,direct", (0, 1))
    assert (ended(more).done, ended(more).skipped) == (4, 4)
    place = Output(str(output))
    assert {row.status for row in manifest.read(place)} == {"done"}
    assert len(manifest.read(place)) == 10
    ended(more).tell(lambda _: None)
    with pytest.raises(RenderError):
        replace(ended(more), failed=1).tell(lambda _: None)
