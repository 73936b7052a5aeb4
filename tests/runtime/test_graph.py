"""What the graph asks of Ray Data: nothing is started."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.data import DataContext

from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime import pipeline as module
from glc_ray.runtime.board import Board
from glc_ray.runtime.farm import Farm
from glc_ray.runtime.file_plans import FilePlans
from glc_ray.runtime.pipeline import Graph, GraphPlan, Listed
from tests.runtime.in_process import Handle, without_ray


class _Empty(Graph):
    def _dataset(self, feed: Any) -> Any:
        return SimpleNamespace(iter_batches=lambda **_: iter(()))


def run_empty(context: Any, pipeline: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph without videos, with a context of its own: other tests have that of the process."""
    without_ray(monkeypatch)
    current = SimpleNamespace(get_current=lambda: context)
    monkeypatch.setattr(module, "DataContext", current)
    spec = load_pipeline(str(pipeline))
    plan = GraphPlan(spec, FilePlans(spec), 1, 1, keep_latents=False)
    farm = Farm(str(folder), (), None, Handle(Board()))
    assert list(_Empty(farm, plan).records(Listed(()), frozenset())) == []


def test_an_actor_that_cannot_start_for_a_moment_does_not_end_the_graph(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = DataContext()
    run_empty(context, tiny_pipeline, tmp_path, monkeypatch)
    if not hasattr(context, "max_consecutive_actor_init_deaths"):
        pytest.skip("this Ray does not replace actors that cannot start")
    assert context.max_consecutive_actor_init_deaths == 3


def test_an_older_ray_is_not_asked_for_it(
    tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = SimpleNamespace()
    run_empty(context, tiny_pipeline, tmp_path, monkeypatch)
    assert not hasattr(context, "max_consecutive_actor_init_deaths")
