"""Evaluation on Ray: the videos of a catalog, as many at once as there are workers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext

from glc_ray.config import DecoderResources, ResourcesSpec
from glc_ray.evaluation.evaluating import Done, evaluate_one, names_of
from glc_ray.evaluation.evaluation_file import EvaluationFile
from glc_ray.evaluation.scoring import Evaluator, Video
from glc_ray.runtime.cluster import connected_with


def evaluated_on_ray(
    videos: Sequence[Video], words: Sequence[str], workers: int, address: str | None
) -> Iterator[Done]:
    """Evaluate videos of storage that all nodes see, in the order in which they are done.

    Args:
        videos: at least one.
        words: names of scores, or of kinds of them.
        workers: actors, each with a CPU and everything that the scores load.
        address: as of ``connected``.

    Raises:
        UserError: as ``Evaluator`` and ``connected``.
    """
    # Here, too: a package that is missing is found out before anything starts.
    Evaluator(words)
    with connected_with(address, _resources(workers)):
        context = DataContext.get_current()
        context.enable_progress_bars = False
        # Beside the lines of this command it would say how long its graph took.
        logging.getLogger("ray.data").setLevel(logging.WARNING)
        # A block a row: one is done when its video is.
        context.target_max_block_size = 1
        rows = ray.data.from_items(
            [{"index": index} for index in range(len(videos))], override_num_blocks=len(videos)
        )
        done = rows.map(
            EvaluateStage,
            fn_constructor_args=(tuple(videos), tuple(words)),
            compute=ActorPoolStrategy(
                size=min(workers, len(videos)), max_tasks_in_flight_per_actor=1
            ),
            num_cpus=1,
        )
        for batch in done.iter_batches(prefetch_batches=0, batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                yield _done(videos[row["index"]], row)


class EvaluateStage:
    """Row with the index of a video -> the same with what became of it."""

    def __init__(self, videos: Sequence[Video], words: Sequence[str]) -> None:
        """Load what the scores need."""
        import torch

        torch.set_num_threads(1)
        self._videos, self._names = videos, names_of(words)
        self._evaluator = Evaluator(words)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        done = evaluate_one(self._evaluator, self._videos[row["index"]], self._names)
        return {
            "index": row["index"],
            "file": done.file.to_json() if done.file else b"",
            "error": done.error,
            "seconds": json.dumps(done.seconds),
        }


def _done(video: Video, row: dict[str, Any]) -> Done:
    file = EvaluationFile.from_json(row["file"]) if row["file"] else None
    return Done(video, file, row["error"], json.loads(row["seconds"]))


def _resources(workers: int) -> ResourcesSpec:
    """Evaluators take what decoders take, and there is nobody else."""
    nobody = ResourcesSpec()
    nothing = {"num_cpus": 0, "num_gpus": 0}
    return nobody.model_copy(
        update={
            "denoisers": nobody.denoisers.model_copy(update=nothing),
            "coordinators": nobody.coordinators.model_copy(update={"num_cpus": 0}),
            "previewer": nobody.previewer.model_copy(update=nothing),
            "decoders": DecoderResources(count=workers, num_cpus=1),
        }
    )
