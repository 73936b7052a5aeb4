"""Tiles of one picture on several decoders: actors that keep the caches of their tiles."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import ray
import torch
from torch import Tensor

from glc_ray.backbones.registry import load_frame_decoder
from glc_ray.config import PipelineSpec
from glc_ray.media.tiles import SpreadTiles, TileWorker
from glc_ray.protocols import DecoderFacts
from glc_ray.runtime.denoiser import assigned_device
from glc_ray.runtime.loading import loaded
from glc_ray.runtime.messages import Array
from glc_ray.runtime.sick_device import end_process, is_sick

_LOG = logging.getLogger(__name__)


class TileActor:
    """One loaded VAE that decodes some tiles of a picture."""

    def __init__(self, pipeline: PipelineSpec) -> None:
        torch.set_num_threads(pipeline.decode.threads)
        device = assigned_device()
        decoder = loaded(lambda: load_frame_decoder(pipeline.model, pipeline.decode, device))
        self._worker = TileWorker(decoder)
        self._has_begun = False

    def ready(self) -> None:
        """Answers once the actor has started, perhaps again."""

    def decode_tiles(self, tiles: dict[int, Array], first: bool) -> dict[int, Array]:
        """Pixels of each tile, float32: exact for any precision of the VAE.

        Where the device fails, nothing is answered: the process ends, and whoever asked finds the
        actor lost.

        Raises:
            LookupError: the caches of the batch before were lost with a restart.
        """
        if not (first or self._has_begun):
            raise LookupError("a restarted decoder has no caches of the batch before")
        self._has_begun = True
        latents = {place: torch.tensor(tile) for place, tile in tiles.items()}
        try:
            pixels = self._worker.decode_tiles(latents, first=first)
            # Here a device tells of what it failed by.
            return {place: tile.float().cpu().numpy() for place, tile in pixels.items()}
        except RuntimeError as error:
            if is_sick(error):
                _LOG.exception("tiles failed")
                end_process()
            raise


def start_tile_actors(pipeline: PipelineSpec, count: int) -> list[Any]:
    """Start ``count`` actors with the resources of decoders."""
    resources = pipeline.resources.decoders
    actor = ray.remote(TileActor).options(
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        resources=resources.custom,
        max_restarts=-1,
    )
    return [actor.remote(pipeline) for _ in range(count)]


def await_tile_actors(actors: list[Any]) -> None:
    """Wait until all have started, perhaps again and elsewhere: before, Ray fails their calls.

    Raises:
        RayError: one cannot start.
    """
    ray.get([actor.ready.options(max_task_retries=-1).remote() for actor in actors])


def spread_over(
    actors: list[Any], shares: tuple[tuple[int, ...], ...], dtype: torch.dtype
) -> SpreadTiles:
    """Decodes each temporal batch's tiles on ``actors``, to each its share.

    ``dtype`` is the VAE's.
    """
    return SpreadTiles([_starter(actor, dtype) for actor in actors], shares)


def _starter(
    actor: Any, dtype: torch.dtype
) -> Callable[[Mapping[int, Tensor], bool], Callable[[], dict[int, Tensor]]]:
    def start(tiles: Mapping[int, Tensor], first: bool) -> Callable[[], dict[int, Tensor]]:
        arrays = {place: tile.cpu().numpy() for place, tile in tiles.items()}
        answer = actor.decode_tiles.remote(arrays, first)
        return lambda: {
            place: torch.from_numpy(np.array(pixels)).to(dtype)
            for place, pixels in ray.get(answer).items()
        }

    return start


class BlendingDecoder:
    """Stands for the VAE in a process that only blends what tile actors decode."""

    def __init__(self, facts: DecoderFacts) -> None:
        self.facts = facts
        self.device = torch.device("cpu")

    def decode_tile(self, latents_BFCHW: Tensor, cache: Any | None) -> tuple[Tensor, Any]:
        """Never asked for: tiles are decoded by the actors."""
        raise AssertionError("tiles are decoded elsewhere")
