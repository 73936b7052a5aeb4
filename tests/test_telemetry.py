"""What is declared of metrics, against Prometheus' own rules for names."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from glc_ray import telemetry
from glc_ray.telemetry import METRICS, PREFIX, Metric

_BY_NAME = {metric.name: metric for metric in METRICS}


@pytest.mark.parametrize("name", _BY_NAME)
def test_names_labels_and_help_are_as_prometheus_asks(name: str) -> None:
    metric = _BY_NAME[name]
    assert re.fullmatch(r"glc_[a-z_]+", name)
    assert name.startswith(PREFIX)
    # The exporters append it, and a base unit ends the name.
    assert not name.endswith("_total")
    if metric.unit in ("s", "bytes"):
        assert name.endswith({"s": "_seconds", "bytes": "_bytes"}[metric.unit])
    assert metric.help.endswith(".")
    assert "output" in metric.labels, "several runs share a Prometheus"
    assert all(re.fullmatch(r"[a-z_]+", label) for label in metric.labels)
    assert (metric.kind == "histogram") == bool(metric.buckets)
    assert list(metric.buckets) == sorted(set(metric.buckets))
    assert metric.source == "actors" or metric.kind == "gauge", "a row that is replaced can lessen"


def test_each_is_declared_once_and_none_grows_with_windows_frames_or_videos() -> None:
    assert len(_BY_NAME) == len(METRICS)
    for metric in METRICS:
        assert not {"window", "frame", "step", "prompt", "id"} & metric.labels.keys()
        # A farm's actors never forget a series: a name there would stay.
        assert metric.source == "farm" or "video" not in metric.labels


def test_labels_and_values_that_are_not_declared_are_refused() -> None:
    telemetry.WINDOWS.check({"output": "/out", "path": "local"})
    with pytest.raises(ValueError, match=r"path is one of .* not 'window-7'"):
        telemetry.WINDOWS.check({"output": "/out", "path": "window-7"})
    with pytest.raises(ValueError, match=r"has the labels \['output', 'path'\], not \['output'\]"):
        telemetry.WINDOWS.check({"output": "/out"})


def test_exported_names() -> None:
    counter = Metric("glc_things", "counter", "short", "Things.")
    assert counter.exported == "ray_glc_things_total"
    assert replace(counter, kind="gauge", source="farm").exported == "glc_things"
    seconds = replace(counter, kind="histogram", buckets=(1.0,)).series
    assert seconds == ("ray_glc_things_bucket", "ray_glc_things_sum", "ray_glc_things_count")
