from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from glc_ray.media.tiles import assign_tiles, blend_tiles, tile_grid, tile_sizes
from glc_ray.protocols import TileAxis, TileGeometry

RATIO = 8
COGVIDEOX = TileGeometry(height=TileAxis(30, 25, 40, 200), width=TileAxis(45, 36, 72, 288))


@st.composite
def axes(draw) -> TileAxis:
    """Tiles that make up a picture: they keep the pixels up to the next one's start."""
    size = draw(st.integers(1, 12))
    stride = draw(st.integers(1, size))
    return TileAxis(size, stride, (size - stride) * RATIO, stride * RATIO)


def test_native_picture_of_cogvideox():
    grid = tile_grid(COGVIDEOX, 60, 90)
    assert grid.rows == (slice(0, 30), slice(25, 55), slice(50, 60))
    assert grid.columns == (slice(0, 45), slice(36, 81), slice(72, 90))
    assert list(grid)[:2] == [(slice(0, 30), slice(0, 45)), (slice(0, 30), slice(36, 81))]


def test_a_picture_no_larger_than_a_tile_is_one_tile():
    assert list(tile_grid(COGVIDEOX, 30, 45)) == [(slice(0, 30), slice(0, 45))]
    assert len(tile_grid(COGVIDEOX, 31, 45)) == 4
    assert len(tile_grid(None, 600, 900)) == 1


@given(axes(), axes(), st.integers(1, 40), st.integers(1, 40))
def test_tiles_cover_the_picture_and_blend_back_to_it(vertical, horizontal, height, width):
    # A decoder that only enlarges has nothing to blend: the picture must come back.
    geometry = TileGeometry(vertical, horizontal)
    latents = torch.rand(1, 1, 1, height, width, dtype=torch.float64)
    grid = tile_grid(geometry, height, width)
    tiles = [_enlarge(latents[..., rows, columns]) for rows, columns in grid]
    picture = blend_tiles(tiles, grid, geometry)
    torch.testing.assert_close(picture, _enlarge(latents))


def test_tiles_of_cogvideox_on_two_decoders():
    grid = tile_grid(COGVIDEOX, 60, 90)
    sizes = tile_sizes(grid)
    assert sizes == (1350, 1350, 540, 1350, 1350, 540, 450, 450, 180)
    assert [sum(sizes[place] for place in share) for share in assign_tiles(grid, 2)] == [3870, 3690]


@given(axes(), axes(), st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
def test_every_tile_has_one_worker_and_none_has_much_more(
    vertical, horizontal, height, width, workers
):
    grid = tile_grid(TileGeometry(vertical, horizontal), height, width)
    shares = assign_tiles(grid, workers)
    assert len(shares) == min(workers, len(grid))
    assert sorted(place for share in shares for place in share) == list(range(len(grid)))
    sizes = tile_sizes(grid)
    loads = [sum(sizes[place] for place in share) for share in shares]
    # Graham's bound of the rule: 4/3 - 1/(3 workers) of the best, which is at least the mean.
    best = max(sum(sizes) / len(shares), max(sizes))
    lower = sorted(sizes, reverse=True)
    if len(grid) > len(shares):
        best = max(best, lower[len(shares) - 1] + lower[len(shares)])
    assert max(loads) <= (4 / 3 - 1 / (3 * len(shares))) * best + min(sizes)


def _enlarge(latents: torch.Tensor) -> torch.Tensor:
    return latents.repeat_interleave(RATIO, -1).repeat_interleave(RATIO, -2)
