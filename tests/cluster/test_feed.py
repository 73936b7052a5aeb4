"""What begins the graph of a catalog."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from glc_ray.runtime.board import Board
from glc_ray.runtime.farm import beside_me
from glc_ray.runtime.pipeline import Feed


@dataclass(frozen=True)
class _Two:
    """Rows that are not listed, as a queue's."""

    num_rows: int = 2

    def rows(self) -> Iterator[dict[str, Any]]:
        yield from ({"id": "first"}, {"id": "second"})


class _Meet:
    """Is through with a row when the other one has begun."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        (self._folder / row["id"]).touch()
        deadline = time.monotonic() + 60
        while len(list(self._folder.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        yield {"id": row["id"], "num_begun": len(list(self._folder.iterdir()))}


def test_videos_of_a_catalog_are_in_work_at_once(ray_cluster: None, tmp_path: Path) -> None:
    """Fused with the stage behind it, the feed would bind all of them to one actor."""
    DataContext.get_current().target_max_block_size = 1
    board = beside_me(Board).remote()
    fed = Feed(_Two(), frozenset(), board).dataset()
    pool = ActorPoolStrategy(size=2, max_tasks_in_flight_per_actor=1)
    met = fed.flat_map(_Meet, fn_constructor_args=(tmp_path,), compute=pool, num_cpus=0)
    assert {row["id"]: row["num_begun"] for row in met.take_all()} == {"first": 2, "second": 2}
    ray.kill(board)
