"""Which tiles a picture is decoded in, and how they become one picture again.

Tiles are independent of each other until the blend. The blend is in place and row-major: each tile
fades in over its upper and then its left neighbour *as already blended*, so that the order is part
of the result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from glc_ray.protocols import TileAxis, TileGeometry


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
