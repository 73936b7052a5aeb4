"""The streamed decode against diffusers' own, with tiny random-weight VAEs of Wan's class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline
from torch import Tensor

from glc_ray.backbones import registry
from glc_ray.backbones.wan_vae import WanFrameDecoder
from glc_ray.config import DecodeSpec, ModelSpec
from glc_ray.media.decode import stream_decode, stream_pixels
from glc_ray.protocols import UserError
from glc_ray.sampler import torch_threads
from tests.tiny_wan import TinyWan, tiny_vae

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny convolutions gain nothing from more, and wait for each other on a busy machine."""
    with torch_threads(1):
        yield


def make_vae(**options: Any) -> AutoencoderKLWan:
    """8x in space, 4x in time: tiles of 4 x 6 latents that overlap by 1/2 and 1/3."""
    torch.manual_seed(0)
    vae = tiny_vae(**options)
    vae.enable_tiling(32, 48, 16, 32)
    return vae


def make_latents(vae: AutoencoderKLWan, frames: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(frames * 10_000 + height * 100 + width)
    return torch.randn((1, frames, vae.config.z_dim, height, width), generator=generator)


def vae_input(vae: AutoencoderKLWan, latents_BFCHW: Tensor) -> Tensor:
    """What ``WanPipeline`` hands to its VAE."""
    latents = latents_BFCHW.transpose(1, 2).to(vae.dtype)
    shape = (1, vae.config.z_dim, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(vae.dtype)
    std = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(vae.dtype)
    return latents / std + mean


def streamed(decoder: WanFrameDecoder, latents: Tensor) -> Tensor:
    """All pixels as diffusers lays and clamps them, (B, C, F, H, W)."""
    pixels = torch.cat(list(stream_pixels(decoder, latents)), dim=1).permute(0, 2, 1, 3, 4)
    return pixels.clamp(-1, 1)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize(
    ("height", "width"),
    [(8, 12), (7, 11), (3, 11), (9, 4), (6, 7)],
    ids=["divisible", "edges", "short tile", "one column", "last tile inside the overlap"],
)
def test_tiled_stream_is_bit_equal_to_diffusers(frames: int, height: int, width: int) -> None:
    vae = make_vae()
    latents = make_latents(vae, frames, height, width)
    expected = vae.tiled_decode(vae_input(vae, latents)).sample
    assert expected.shape == (1, 3, 4 * frames - 3, height * 8, width * 8)
    assert torch.equal(streamed(WanFrameDecoder(vae, tiling=True), latents), expected)


@pytest.mark.parametrize("frames", [1, 2, 5])
@pytest.mark.parametrize("tiling", [True, False], ids=["no larger than a tile", "tiling off"])
def test_untiled_stream_is_bit_equal_to_diffusers(frames: int, tiling: bool) -> None:
    vae = make_vae()
    latents = make_latents(vae, frames, 4, 6) if tiling else make_latents(vae, frames, 7, 9)
    vae.use_tiling = tiling
    expected = vae.decode(vae_input(vae, latents)).sample
    assert torch.equal(streamed(WanFrameDecoder(vae, tiling=tiling), latents), expected)


def test_pixels_beyond_the_range_are_blended_before_they_are_clamped() -> None:
    vae = make_vae()
    with torch.no_grad():
        vae.decoder.conv_out.bias += torch.tensor([1.0, -1.0, 0.0])
    latents = make_latents(vae, 3, 7, 11) * 5
    expected = vae.tiled_decode(vae_input(vae, latents)).sample
    assert {-1.0, 1.0} == {expected.min().item(), expected.max().item()}
    assert torch.equal(streamed(WanFrameDecoder(vae, tiling=True), latents), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rounds_as_diffusers(dtype: torch.dtype) -> None:
    vae = make_vae().to(dtype)
    latents = make_latents(vae, 3, 7, 11)
    expected = vae.tiled_decode(vae_input(vae, latents)).sample
    assert torch.equal(streamed(WanFrameDecoder(vae, tiling=True), latents), expected)


def test_residual_vae_that_decodes_patches() -> None:
    """The kind of Wan 2.2's VAE: its first chunk is upsampled in a way of its own."""
    vae = make_vae(
        is_residual=True, patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16
    )
    vae.use_tiling = False
    latents = make_latents(vae, 4, 3, 5)
    expected = vae.decode(vae_input(vae, latents)).sample
    assert expected.shape[-2:] == (48, 80)
    assert torch.equal(streamed(WanFrameDecoder(vae, tiling=False), latents), expected)


@pytest.mark.parametrize("prefix", [1, 3])
def test_a_prefix_is_decoded_to_the_same_bits(prefix: int) -> None:
    vae = make_vae()
    decoder = WanFrameDecoder(vae, tiling=True)
    latents = make_latents(vae, 5, 7, 11)
    whole, part = streamed(decoder, latents), streamed(decoder, latents[:, :prefix])
    assert torch.equal(part, whole[:, :, : 4 * prefix - 3])


def test_a_frame_can_be_decoded_again_from_the_same_cache() -> None:
    vae = make_vae()
    decoder = WanFrameDecoder(vae, tiling=False)
    latents = make_latents(vae, 3, 4, 6)
    _, cache = decoder.decode_tile(latents[:, :1], None)
    first, after = decoder.decode_tile(latents[:, 1:2], cache)
    again, _ = decoder.decode_tile(latents[:, 1:2], cache)
    assert torch.equal(first, again)
    third, _ = decoder.decode_tile(latents[:, 2:], after)
    assert third.shape[1] == 4


def test_the_cache_does_not_grow_with_the_video() -> None:
    vae = make_vae()
    decoder = WanFrameDecoder(vae, tiling=False)
    sizes, cache = [], None
    for frame in make_latents(vae, 6, 4, 6).split(1, dim=1):
        _, cache = decoder.decode_tile(frame, cache)
        sizes.append(
            sum(part.untyped_storage().nbytes() for part in cache if isinstance(part, Tensor))
        )
    # Two frames of each convolution are kept, and at first there is only one.
    assert sizes[0] < sizes[2] == sizes[-1]


def test_frames_are_those_of_the_pipeline(tiny_wan: TinyWan) -> None:
    folder = tiny_wan("one")
    pipeline = WanPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    call = {"prompt": "a red ball", "height": 32, "width": 48, "num_frames": 9}
    call |= {"num_inference_steps": 2}
    latents = pipeline(**call, output_type="latent", generator=torch.manual_seed(3)).frames
    images = pipeline(**call, output_type="pil", generator=torch.manual_seed(3)).frames[0]
    model = ModelSpec(backbone="wan", path=str(folder))
    decoder = registry.load_frame_decoder(model, DecodeSpec(), CPU)
    frames = np.concatenate(list(stream_decode(decoder, latents.transpose(1, 2))))
    np.testing.assert_array_equal(frames, np.stack([np.asarray(image) for image in images]))


class TestTiles:
    """decode.* of a specification."""

    @pytest.fixture
    def model(self, tiny_wan: TinyWan) -> ModelSpec:
        return ModelSpec(backbone="wan", path=str(tiny_wan("one")))

    @pytest.mark.parametrize("tiling", ["auto", "on"])
    def test_the_vaes_own_tiles_are_the_default(self, model: ModelSpec, tiling: Any) -> None:
        tiles = registry.load_frame_decoder(model, DecodeSpec(tiling=tiling), CPU).facts.tiles
        assert tiles is not None
        assert tiles.height == tiles.width
        assert (tiles.height.latent_size, tiles.height.latent_stride) == (32, 24)
        assert (tiles.height.blend_extent, tiles.height.limit) == (64, 192)

    def test_tiling_can_be_turned_off(self, model: ModelSpec) -> None:
        decode = DecodeSpec(tiling="off")
        registry.check_decode(model, decode)
        assert registry.load_frame_decoder(model, decode, CPU).facts.tiles is None

    def test_tiles_of_the_users_own_are_diffusers_tiles(self, model: ModelSpec) -> None:
        decode = DecodeSpec(tile_height=32, tile_width=64, tile_overlap=0.5)
        registry.check_decode(model, decode)
        decoder = registry.load_frame_decoder(model, decode, CPU)
        vae = AutoencoderKLWan.from_pretrained(model.path, subfolder="vae")
        vae.enable_tiling(32, 64, 16, 32)
        latents = make_latents(vae, 2, 7, 11)
        expected = vae.decode(vae_input(vae, latents)).sample
        assert torch.equal(streamed(decoder, latents), expected)

    def test_a_size_alone_keeps_the_share_of_the_overlap(self, model: ModelSpec) -> None:
        decoder = registry.load_frame_decoder(model, DecodeSpec(tile_height=128), CPU)
        tiles = decoder.facts.tiles
        assert tiles is not None
        assert (tiles.height.latent_size, tiles.height.latent_stride) == (16, 12)
        assert tiles.width.latent_size == 32

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (
                {"tile_height": 100},
                "decode.tile_height = 100: must be a multiple of 8, the pixels of a latent cell; "
                "the nearest is 96",
            ),
            (
                {"tile_width": 4},
                "decode.tile_width = 4: must be a multiple of 8, the pixels of a latent cell; "
                "the nearest is 8",
            ),
            (
                {"tile_overlap": 0.3},
                "decode.tile_overlap = 0.3: tiles of 256 pixels (height) would be 179 apart, which "
                "must be a multiple of 8, the pixels of a latent cell; the nearest overlap is "
                "0.3125",
            ),
            (
                {"tiling": "off", "tile_width": 64},
                "decode.tile_width = 64: there are no tiles with decode.tiling = 'off'; use "
                "'auto' or leave the key out",
            ),
        ],
    )
    def test_tiles_that_cannot_be_are_refused(
        self, model: ModelSpec, options: dict[str, Any], text: str
    ) -> None:
        with pytest.raises(UserError) as error:
            registry.check_decode(model, DecodeSpec(**options))
        assert str(error.value) == text

    def test_patches_are_not_tiled(self, tiny_wan: TinyWan, tmp_path: Path) -> None:
        vae = make_vae(patch_size=2, in_channels=12, out_channels=12, scale_factor_spatial=16)
        vae.save_pretrained(tmp_path / "vae")
        (tmp_path / "model_index.json").write_text('{"_class_name": "WanPipeline"}')
        model = ModelSpec(backbone="wan", path=str(tmp_path))
        assert registry.load_frame_decoder(model, DecodeSpec(), CPU).facts.tiles is None
        with pytest.raises(UserError, match=r"decode.tiling = 'on': this VAE decodes patches \("):
            registry.check_decode(model, DecodeSpec(tiling="on"))
