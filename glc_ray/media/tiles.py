"""Which tiles a picture is decoded in, and how they become one picture again.

Tiles are independent of each other until the blend, so that several workers can decode them: each
keeps the caches of its own. The blend is in place and row-major: each tile fades in over its upper
and then its left neighbour *as already blended*, so that the order is part of the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from glc_ray.protocols import FrameDecoder, TileAxis, TileGeometry


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one picture, as slices of latent cells."""

    rows: tuple[slice, ...]
    columns: tuple[slice, ...]

    def __len__(self) -> int:
        return len(self.rows) * len(self.columns)

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """(rows, columns) of each tile in row-major order."""
        return ((row, column) for row in self.rows for column in self.columns)


class TileDecoder(Protocol):
    """Decodes the tiles of one temporal batch after another."""

    def decode_tiles(self, tiles_BFCHW: Mapping[int, Tensor], *, first: bool) -> dict[int, Tensor]:
        """Pixels of each tile of the next temporal batch, as ``FrameDecoder.decode_tile``.

        Args:
            tiles_BFCHW: latents (B, f, C, h, w) by the tile's place in the grid.
            first: the decode begins: forget the caches of the one before.
        """
        ...


class TileWorker:
    """Decodes tiles in this process and keeps their caches."""

    def __init__(self, decoder: FrameDecoder) -> None:
        self._decoder = decoder
        self._caches: dict[int, Any] = {}

    def decode_tiles(self, tiles_BFCHW: Mapping[int, Tensor], *, first: bool) -> dict[int, Tensor]:
        """See ``TileDecoder``; latents may be on any device."""
        if first:
            self._caches.clear()
        pixels = {}
        for place, latents in tiles_BFCHW.items():
            latents = _move(latents, self._decoder.device)
            pixels[place], self._caches[place] = self._decoder.decode_tile(
                latents, self._caches.get(place)
            )
        return pixels


StartTiles = Callable[[Mapping[int, Tensor], bool], Callable[[], Mapping[int, Tensor]]]
"""Starts ``decode_tiles`` (tiles, first) somewhere; gives a function that waits for the pixels."""


class SpreadTiles:
    """Decodes the tiles of each temporal batch on several workers at once.

    Args:
        starts: one for each worker.
        places: tiles of each worker, as ``assign_tiles`` gives them.
    """

    def __init__(self, starts: Sequence[StartTiles], places: Sequence[Sequence[int]]) -> None:
        self._starts, self._places = starts, places

    def decode_tiles(self, tiles_BFCHW: Mapping[int, Tensor], *, first: bool) -> dict[int, Tensor]:
        """See ``TileDecoder``; pixels are on the devices where the workers left them."""
        waits = [
            start({place: tiles_BFCHW[place] for place in places}, first)
            for start, places in zip(self._starts, self._places, strict=True)
        ]
        return {place: pixels for wait in waits for place, pixels in wait().items()}


def assign_tiles(grid: TileGrid, num_workers: int) -> tuple[tuple[int, ...], ...]:
    """Tiles of each worker, so that none has much more to decode than the others.

    Tiles at the lower and right edge are smaller: the largest of those that are left goes to the
    worker that has the least.
    """
    sizes = tile_sizes(grid)
    places: list[list[int]] = [[] for _ in range(min(num_workers, len(grid)))]
    for place in sorted(range(len(grid)), key=lambda place: -sizes[place]):
        min(places, key=lambda own: sum(sizes[other] for other in own)).append(place)
    return tuple(tuple(sorted(own)) for own in places)


def tile_sizes(grid: TileGrid) -> tuple[int, ...]:
    """Latent cells of each tile."""
    return tuple(
        (rows.stop - rows.start) * (columns.stop - columns.start) for rows, columns in grid
    )


def tile_grid(geometry: TileGeometry | None, height: int, width: int) -> TileGrid:
    """The tiles of a picture of ``height`` x ``width`` latent cells.

    One tile for a picture that is no larger than a tile, or without a geometry; otherwise both
    sides are divided, as diffusers does.
    """
    if geometry is None or _fits_one_tile(geometry, height, width):
        return TileGrid((slice(0, height),), (slice(0, width),))
    return TileGrid(_slices(geometry.height, height), _slices(geometry.width, width))


def blend_tiles(tiles: Sequence[Tensor], grid: TileGrid, geometry: TileGeometry | None) -> Tensor:
    """One picture (..., H, W) out of its tiles (..., h, w), which are overwritten.

    Args:
        tiles: pixels of each tile of ``grid`` in row-major order.
        grid: what ``tile_grid`` gave for this picture.
        geometry: what it was made with.
    """
    if geometry is None or len(grid) == 1:
        return tiles[0]
    above: list[Tensor] = []
    picture = []
    columns = len(grid.columns)
    for start in range(0, len(grid), columns):
        row = list(tiles[start : start + columns])
        _blend_row(row, above, geometry)
        limits = (..., slice(geometry.height.limit), slice(geometry.width.limit))
        picture.append(torch.cat([tile[limits] for tile in row], dim=-1))
        above = row
    return torch.cat(picture, dim=-2)


def _fits_one_tile(geometry: TileGeometry, height: int, width: int) -> bool:
    return height <= geometry.height.latent_size and width <= geometry.width.latent_size


def _slices(axis: TileAxis, length: int) -> tuple[slice, ...]:
    starts = range(0, length, axis.latent_stride)
    return tuple(slice(start, min(start + axis.latent_size, length)) for start in starts)


def _blend_row(row: list[Tensor], above: list[Tensor], geometry: TileGeometry) -> None:
    for column, tile in enumerate(row):
        if above:
            _fade(above[column], tile, geometry.height.blend_extent, dim=-2)
        if column:
            _fade(row[column - 1], tile, geometry.width.blend_extent, dim=-1)


def _fade(before: Tensor, tile: Tensor, extent: int, dim: int) -> None:
    """Let ``tile`` fade in over the end of ``before`` along ``dim``, in place."""
    extent = min(before.shape[dim], tile.shape[dim], extent)
    if extent == 0:
        return
    # In float16 each product is rounded before the sum, as in diffusers' loop over single lines.
    share = torch.arange(extent, dtype=torch.float64, device=tile.device) / extent
    share = share if dim == -1 else share[:, None]
    precision = torch.promote_types(tile.dtype, torch.float32)
    old = before.narrow(dim, before.shape[dim] - extent, extent)
    new = tile.narrow(dim, 0, extent)
    fading_out = (old * (1 - share).to(precision)).to(tile.dtype)
    new.copy_(fading_out + (new * share.to(precision)).to(tile.dtype))


def _move(latents: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and latents.device.type == "cpu":
        latents = latents.pin_memory()
    return latents.to(device, non_blocking=True)
