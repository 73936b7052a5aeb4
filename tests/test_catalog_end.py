"""What a catalog's end says."""

from __future__ import annotations

from dataclasses import replace

import pytest

from glc_ray.cli import RenderError
from glc_ray.render_catalog import CatalogEnd
from glc_ray.store.record import invalid_record

FAILED = replace(
    invalid_record("rows.jsonl", 3, "step 2: the last window is not finite", name="red"),
    status="failed",
    log="node-1:/tmp/ray/worker.out",
)
END = CatalogEnd("out", total=5, done=1, failed=2, cancelled=0, invalid=1, skipped=1, repeated=0)


def test_videos_that_failed_are_counted_and_the_first_is_named_with_its_log() -> None:
    said: list[str] = []
    with pytest.raises(RenderError) as error:
        replace(END, first_failure=FAILED.failure).tell(said.append)
    assert said == [
        "5 videos: 1 done, 1 done before, 2 failed, 1 invalid",
        "in out; `glc-ray status out` tells more",
    ]
    assert str(error.value).splitlines() == [
        "2 failed and 1 invalid of 5; the manifest says why. The same command again tries what "
        "failed once more",
        "the first: red: step 2: the last window is not finite",
        "log: node-1:/tmp/ray/worker.out",
    ]


def test_an_invalid_row_has_no_log() -> None:
    with pytest.raises(RenderError, match=r"once more$"):
        replace(END, failed=0).tell(lambda line: None)


def test_without_failures_nothing_is_raised() -> None:
    replace(END, failed=0, invalid=0, report="out/report/index.html").tell(lambda line: None)
