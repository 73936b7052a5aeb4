"""Stretches of time and spread tiles against diffusers' decode of the whole video (oracle 10).

Tiny random-weight VAEs of the real classes. Few channels, but all convolutions one after another:
what is seen back depends on the depth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, AutoencoderKLWan
from torch import Tensor

from glc_ray.backbones import cogvideox_vae, registry, wan_vae
from glc_ray.backbones.cogvideox_vae import CogVideoXFrameDecoder
from glc_ray.backbones.wan_vae import WanFrameDecoder
from glc_ray.config import DecodeSpec, ModelSpec
from glc_ray.media.decode import NonFiniteError, stream_decode, stream_pixels
from glc_ray.media.stretch import Stretch, decode_stretch, segments, stretch_pixels, stretches
from glc_ray.media.tiles import SpreadTiles, TileWorker, assign_tiles, tile_grid
from glc_ray.protocols import FrameDecoder
from glc_ray.sampler import torch_threads
from tests.tiny_wan import tiny_vae

BLOCK = "CogVideoX{}Block3D"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    with torch_threads(1):
        yield


def cogvideox(seed: int = 0, layers: int = 1, levels: int = 3) -> AutoencoderKLCogVideoX:
    """4x in time; tiles of 4 x 4 latents that overlap by 1/2 at three levels."""
    torch.manual_seed(seed)
    vae = AutoencoderKLCogVideoX(
        down_block_types=(BLOCK.format("Down"),) * levels,
        up_block_types=(BLOCK.format("Up"),) * levels,
        block_out_channels=(8,) * levels,
        latent_channels=4,
        layers_per_block=layers,
        norm_num_groups=2,
        sample_height=32,
        sample_width=32,
        scaling_factor=0.7,
    )
    vae.enable_tiling(16, 16, 0.5, 0.5)
    return vae.eval().requires_grad_(False)


def wan(seed: int = 0, **options: Any) -> AutoencoderKLWan:
    """8x in space, 4x in time: tiles of 4 x 4 latents that overlap by 1/2."""
    torch.manual_seed(seed)
    vae = tiny_vae(**options)
    if not options.get("is_residual"):
        vae.enable_tiling(32, 32, 16, 16)
    return vae


def wan_2_2(seed: int = 0) -> AutoencoderKLWan:
    return wan(
        seed, is_residual=True, patch_size=2, in_channels=12, out_channels=12,
        scale_factor_spatial=16,
    )  # fmt: skip


KINDS: dict[str, tuple[Callable[..., Any], Any]] = {
    "cogvideox": (cogvideox, CogVideoXFrameDecoder),
    "wan": (wan, WanFrameDecoder),
    "wan 2.2": (wan_2_2, WanFrameDecoder),
}


def make(kind: str, seed: int = 0, *, tiling: bool = False) -> tuple[Any, FrameDecoder]:
    vae, decoder = KINDS[kind][0](seed), KINDS[kind][1]
    return vae, decoder(vae, tiling=tiling)


def make_latents(vae: Any, frames: int, height: int = 2, width: int = 3, seed: int = 0) -> Tensor:
    channels = vae.config.latent_channels if isinstance(vae, AutoencoderKLCogVideoX) else 16
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((1, frames, channels, height, width), generator=generator)


def diffusers_decode(vae: Any, latents_BFCHW: Tensor) -> Tensor:
    """All pixels of the VAE's own decode, (B, F, 3, H, W), Wan's clamped."""
    latents = latents_BFCHW.transpose(1, 2)
    if isinstance(vae, AutoencoderKLCogVideoX):
        latents = 1 / vae.config.scaling_factor * latents
    else:
        shape = (1, 16, 1, 1, 1)
        reciprocal = 1.0 / torch.tensor(vae.config.latents_std).view(shape)
        latents = latents / reciprocal + torch.tensor(vae.config.latents_mean).view(shape)
    return vae.decode(latents).sample.transpose(1, 2)


def clamped(pixels: Tensor, vae: Any) -> Tensor:
    return pixels if isinstance(vae, AutoencoderKLCogVideoX) else pixels.clamp(-1, 1)


def decoded(
    decoder: FrameDecoder, latents: Tensor, stretch: Stretch, **options: Any
) -> dict[int, Tensor]:
    """Pixels of each segment of a stretch."""
    parts: dict[int, list[Tensor]] = {}
    for index, pixels in stretch_pixels(decoder, latents, stretch, **options):
        parts.setdefault(index, []).append(pixels)
    return {index: torch.cat(batches, dim=1) for index, batches in parts.items()}


def planned(decoder: FrameDecoder, frames: int, count: int, length: int) -> tuple[Stretch, ...]:
    num_frames = decoder.facts.frames_before(frames, frames)
    parts = segments(decoder.facts, frames, num_frames=num_frames, segment_latent_frames=length)
    return stretches(parts, count)


@pytest.mark.parametrize(
    ("kind", "frames"),
    [("cogvideox", 1), ("cogvideox", 2), ("cogvideox", 3), ("cogvideox", 8), ("cogvideox", 9),
     ("wan", 1), ("wan", 4), ("wan 2.2", 4)],
)  # fmt: skip
def test_frames_of_temporal_batches_are_counted_as_they_are_decoded(kind: str, frames: int) -> None:
    vae, decoder = make(kind)
    latents, before = make_latents(vae, frames), 0
    batches = decoder.facts.temporal_batches(frames)
    for batch, pixels in zip(batches, stream_pixels(decoder, latents), strict=True):
        assert decoder.facts.frames_before(batch.start, frames) == before
        before += pixels.shape[1]
    assert decoder.facts.frames_before(frames, frames) == before


@pytest.mark.parametrize(
    ("kind", "frames", "seed"),
    [("cogvideox", 69, 0), ("cogvideox", 68, 1), ("wan", 62, 0), ("wan 2.2", 62, 1)],
    ids=["cogvideox", "cogvideox, even", "wan", "wan 2.2"],
)
def test_stretches_are_bit_equal_to_diffusers_decode(kind: str, frames: int, seed: int) -> None:
    """The first one, one with its whole warm-up, and the second, whose warm-up meets the start."""
    vae, decoder = make(kind, seed)
    # Wan's decode takes all frames in its first 1x1x1 convolution, for which torch chooses another
    # way, and other last bits, if a single frame is smaller than 4 x 4.
    latents = make_latents(vae, frames, 4, 4, seed=seed)
    vae.use_tiling = False
    expected = diffusers_decode(vae, latents)
    runs = planned(decoder, frames, count=4, length=8)
    assert len(runs) == 4
    assert runs[1][0].start < decoder.facts.exact_warmup < runs[-1][0].start
    for stretch in runs:
        got = decoded(decoder, latents, stretch)
        assert list(got) == [segment.index for segment in stretch]
        for segment in stretch:
            wanted = expected[:, segment.first_frame :][:, : segment.num_frames]
            assert torch.equal(clamped(got[segment.index], vae), wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_short_warm_up_is_not_bit_equal_and_its_error_falls(kind: str) -> None:
    vae, decoder = make(kind)
    latents = make_latents(vae, 61)
    last = planned(decoder, 61, count=3, length=8)[-1]
    exact = decoded(decoder, latents, last)
    errors = [
        max(
            float((exact[index] - pixels).abs().max())
            for index, pixels in decoded(decoder, latents, last, warmup=warmup).items()
        )
        for warmup in (0, 8, 14)
    ]
    assert errors[0] > errors[1] > errors[2] > 0


def test_wan_sees_back_as_far_as_it_is_said_to() -> None:
    """Exact with the least warm-up, and not with one latent frame less: the bound is no guess."""
    vae = AutoencoderKLWan(base_dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], num_res_blocks=2)
    decoder = WanFrameDecoder(vae, tiling=False)
    assert decoder.facts.exact_warmup == 38
    latents = make_latents(vae, 42)
    parts = segments(decoder.facts, 42, num_frames=165, segment_latent_frames=1)
    stretch = parts[40:]
    whole, exact, short = (
        decoded(decoder, latents, stretch, warmup=warmup) for warmup in (42, 38, 37)
    )
    assert all(torch.equal(whole[index], exact[index]) for index in whole)
    assert not torch.equal(whole[40], short[40])


@pytest.mark.parametrize(
    ("layers", "levels", "convolutions"), [(3, 4, 38), (1, 4, 22), (1, 3, 18), (2, 3, 24)]
)
def test_cogvideox_sees_back_a_temporal_batch_for_each_convolution(
    layers: int, levels: int, convolutions: int
) -> None:
    """The first, two blocks of two in the middle, two in each block of a level, and the last."""
    assert convolutions == 1 + 4 + levels * 2 * (layers + 1) + 1
    vae = cogvideox(layers=layers, levels=levels)
    assert cogvideox_vae.exact_warmup(vae) == 2 * convolutions
    vae.num_latent_frames_batch_size = 1
    # Then two batches hold the two frames that a convolution sees back.
    assert cogvideox_vae.exact_warmup(vae) == 2 * convolutions


def test_models_that_people_use() -> None:
    with torch.device("meta"):
        # The defaults of the classes are the VAEs of CogVideoX and of Wan 2.1.
        assert cogvideox_vae.exact_warmup(AutoencoderKLCogVideoX(layers_per_block=3)) == 76
        assert wan_vae.exact_warmup(AutoencoderKLWan()) == 38
    assert (
        registry.decoder_facts(ModelSpec(path="package:toyworld"), DecodeSpec()).exact_warmup == 44
    )


class Watched:
    """Latents that remember which frames were asked for."""

    def __init__(self, latents: Tensor) -> None:
        self.latents, self.shape = latents, latents.shape
        self.touched: set[int] = set()

    def __getitem__(self, index: tuple[slice, slice]) -> Tensor:
        self.touched |= set(range(index[1].start, index[1].stop))
        return self.latents[index]


@pytest.mark.parametrize(("warmup", "first"), [(0, 25), (3, 21), (4, 21), (5, 19), (30, 0)])
def test_only_a_stretch_and_its_warm_up_are_touched(warmup: int, first: int) -> None:
    """The warm-up is rounded up to whole temporal batches of two."""
    vae, decoder = make("cogvideox")
    stretch = segments(decoder.facts, 33, num_frames=129, segment_latent_frames=4)[6:7]
    assert (stretch[0].start, stretch[0].stop) == (25, 29)
    latents: Any = Watched(make_latents(vae, 33))
    assert len(list(stretch_pixels(decoder, latents, stretch, warmup=warmup))) == 2
    assert latents.touched == set(range(first, 29))


def test_frames_are_those_of_the_whole_video_and_no_more_than_it_wants() -> None:
    vae, decoder = make("cogvideox")
    latents = make_latents(vae, 7)
    whole = np.concatenate(list(stream_decode(decoder, latents)))
    parts = segments(decoder.facts, 7, num_frames=22, segment_latent_frames=2)
    got = list(decode_stretch(decoder, latents, parts))
    assert [(index, len(frames)) for index, frames in got] == [(0, 9), (1, 8), (2, 5)]
    np.testing.assert_array_equal(np.concatenate([frames for _, frames in got]), whole[:22])


def test_latents_beyond_the_last_frame_that_is_wanted_are_not_decoded() -> None:
    vae, decoder = make("cogvideox")
    latents = make_latents(vae, 9)
    latents[:, 5:] = float("nan")
    parts = segments(decoder.facts, 9, num_frames=17, segment_latent_frames=8)
    assert sum(len(frames) for _, frames in decode_stretch(decoder, latents, parts)) == 17


def test_what_is_not_finite_is_named_by_its_place_in_the_video() -> None:
    vae, decoder = make("cogvideox")
    latents = make_latents(vae, 33)
    latents[:, 26] = float("inf")
    last = segments(decoder.facts, 33, num_frames=129, segment_latent_frames=8)[-1:]
    with pytest.raises(NonFiniteError, match="latent frame 26 holds NaN or infinity"):
        list(decode_stretch(decoder, latents, last, warmup=4))


def test_pixels_that_are_not_finite_are_named_by_their_place_in_the_video() -> None:
    vae, decoder = make("cogvideox")
    vae.decoder.conv_out.conv.bias.fill_(float("inf"))
    last = segments(decoder.facts, 33, num_frames=129, segment_latent_frames=8)[-1:]
    assert last[0].first_frame == 97
    with pytest.raises(NonFiniteError, match="pixel frame 97 holds NaN or infinity"):
        list(decode_stretch(decoder, make_latents(vae, 33), last, warmup=0))


def spread(kind: str, count: int, pool: ThreadPoolExecutor, grid: Any) -> SpreadTiles:
    """Workers with a VAE of their own, at once, the last one first; latents as if sent to them."""

    def start_on(worker: TileWorker) -> Any:
        def start(tiles: Mapping[int, Tensor], first: bool) -> Callable[[], dict[int, Tensor]]:
            sent = {place: tile.clone() for place, tile in list(tiles.items())[::-1]}
            return pool.submit(worker.decode_tiles, sent, first=first).result

        return start

    shares = assign_tiles(grid, count)
    starts = [start_on(TileWorker(make(kind, tiling=True)[1])) for _ in shares]
    return SpreadTiles(starts[::-1], shares[::-1])


@pytest.mark.parametrize("count", [2, 4, 9])
@pytest.mark.parametrize("kind", ["cogvideox", "wan"])
def test_tiles_on_several_decoders_are_bit_equal_to_diffusers_tiled_decode(
    kind: str, count: int
) -> None:
    vae, decoder = make(kind, tiling=True)
    latents = make_latents(vae, 5, 5, 6)
    vae.use_tiling = True
    expected = diffusers_decode(vae, latents)
    grid = tile_grid(decoder.facts.tiles, 5, 6)
    assert len(grid) == 9
    with ThreadPoolExecutor(count) as pool:
        tiles = spread(kind, count, pool, grid)
        # Twice: a decode begins without the caches of the one before.
        for _ in range(2):
            got = torch.cat(list(stream_pixels(decoder, latents, tiles=tiles)), dim=1)
            assert torch.equal(clamped(got, vae), expected)


@pytest.mark.parametrize("kind", ["cogvideox", "wan"])
def test_a_stretch_of_spread_tiles_is_bit_equal_too(kind: str) -> None:
    vae, decoder = make(kind, tiling=True)
    latents = make_latents(vae, 49, 3, 5)
    vae.use_tiling = True
    expected = diffusers_decode(vae, latents)
    last = planned(decoder, 49, count=6, length=4)[-1]
    with ThreadPoolExecutor(2) as pool:
        tiles = spread(kind, 2, pool, tile_grid(decoder.facts.tiles, 3, 5))
        got = torch.cat(list(decoded(decoder, latents, last, tiles=tiles).values()), dim=1)
    assert torch.equal(clamped(got, vae), expected[:, last[0].first_frame :])
