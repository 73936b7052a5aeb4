"""The streamed decode against diffusers' own, with tiny random-weight VAEs of the real class."""

from __future__ import annotations

import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline
from diffusers.video_processor import VideoProcessor

from glc_ray.backbones import registry
from glc_ray.backbones.cogvideox_vae import (
    CogVideoXFrameDecoder,
    check_tiling,
    load_frame_decoder,
)
from glc_ray.config import DecodeSpec, ModelSpec
from glc_ray.media.decode import NonFiniteError, stream_decode, stream_pixels
from glc_ray.protocols import UserError

BLOCK = "CogVideoX{}Block3D"


def make_vae(
    *, sample=(48, 80), post_quant_conv=False, seed=0, **options
) -> AutoencoderKLCogVideoX:
    """4x in space and in time: tiles of 6 x 10 latents that overlap by 1/6 and 1/5."""
    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(
        down_block_types=(BLOCK.format("Down"),) * 3,
        up_block_types=(BLOCK.format("Up"),) * 3,
        block_out_channels=(8, 8, 8),
        latent_channels=3 if post_quant_conv else 4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
        sample_height=sample[0],
        sample_width=sample[1],
        scaling_factor=0.7,
        use_post_quant_conv=post_quant_conv,
    )
    return vae.eval().requires_grad_(False)


def make_latents(vae, frames, height, width, batch=1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames * 10_000 + height * 100 + width)
    shape = (batch, frames, vae.config.latent_channels, height, width)
    return torch.randn(shape, generator=generator)


def reference_latents(vae, latents) -> torch.Tensor:
    """What ``CogVideoXPipeline.decode_latents`` hands to its VAE."""
    return 1 / vae.config.scaling_factor * latents.to(vae.dtype).permute(0, 2, 1, 3, 4)


def streamed(decoder, latents) -> torch.Tensor:
    """All pixels as diffusers lays them, (B, C, F, H, W)."""
    return torch.cat(list(stream_pixels(decoder, latents)), dim=1).permute(0, 2, 1, 3, 4)


@pytest.mark.parametrize("frames", [1, 4, 5])
@pytest.mark.parametrize(
    ("height", "width"),
    [(10, 16), (7, 11), (5, 11), (9, 4), (16, 9)],
    ids=["divisible", "edges", "short tile", "one column", "last tile inside the overlap"],
)
def test_tiled_stream_is_bit_equal_to_diffusers(frames, height, width):
    vae = make_vae()
    latents = make_latents(vae, frames, height, width)
    expected = vae.tiled_decode(reference_latents(vae, latents)).sample
    assert expected.shape[-2:] == (height * 4, width * 4)
    assert torch.equal(streamed(CogVideoXFrameDecoder(vae, tiling=True), latents), expected)


@pytest.mark.parametrize("frames", [1, 4, 5])
@pytest.mark.parametrize("tiling", [True, False], ids=["no larger than a tile", "tiling off"])
def test_untiled_stream_is_bit_equal_to_diffusers(frames, tiling):
    vae = make_vae()
    latents = make_latents(vae, frames, 6, 10) if tiling else make_latents(vae, frames, 9, 13)
    expected = vae.decode(reference_latents(vae, latents)).sample
    assert torch.equal(streamed(CogVideoXFrameDecoder(vae, tiling=tiling), latents), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_blend_rounds_as_diffusers_in_every_precision(dtype):
    vae = make_vae().to(dtype)
    latents = make_latents(vae, 3, 10, 16)
    expected = vae.tiled_decode(reference_latents(vae, latents)).sample
    assert torch.equal(streamed(CogVideoXFrameDecoder(vae, tiling=True), latents), expected)


def test_overlaps_of_the_users_own_several_videos_and_a_post_quant_convolution():
    vae = make_vae(post_quant_conv=True)
    vae.enable_tiling(32, 32, tile_overlap_factor_height=0.5, tile_overlap_factor_width=0.25)
    latents = make_latents(vae, 5, 13, 15, batch=2)
    expected = vae.decode(reference_latents(vae, latents)).sample
    assert torch.equal(streamed(CogVideoXFrameDecoder(vae, tiling=True), latents), expected)


def test_tiles_that_do_not_make_up_a_picture_are_still_diffusers_own():
    vae = make_vae(sample=(32, 48))
    latents = make_latents(vae, 3, 8, 12)
    expected = vae.tiled_decode(reference_latents(vae, latents)).sample
    assert expected.shape[-2:] != (32, 48)
    assert torch.equal(streamed(CogVideoXFrameDecoder(vae, tiling=True), latents), expected)


def test_other_temporal_batch_size():
    vae = make_vae()
    vae.num_latent_frames_batch_size = 3
    latents = make_latents(vae, 8, 4, 4)
    expected = vae.decode(reference_latents(vae, latents)).sample
    assert torch.equal(streamed(CogVideoXFrameDecoder(vae, tiling=False), latents), expected)


@pytest.mark.parametrize("prefix", [3, 5])
def test_decode_of_whole_batches_from_the_start_is_bit_equal(prefix):
    # A prefix that ends inside a batch is not: GroupNorm spans the frames of a batch.
    vae = make_vae()
    decoder = CogVideoXFrameDecoder(vae, tiling=True)
    latents = make_latents(vae, 7, 7, 11)
    whole, part = streamed(decoder, latents), streamed(decoder, latents[:, :prefix])
    assert torch.equal(part, whole[:, :, : part.shape[2]])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_frames_are_rounded_as_the_pipeline_rounds(dtype):
    vae = make_vae().to(dtype)
    # Strong latents, so that pixels are clamped at both ends.
    latents = make_latents(vae, 5, 7, 11) * 50
    pixels = vae.tiled_decode(reference_latents(vae, latents)).sample
    expected = VideoProcessor(vae_scale_factor=4).postprocess_video(pixels, output_type="pil")[0]
    frames = np.concatenate(list(stream_decode(CogVideoXFrameDecoder(vae, tiling=True), latents)))
    assert frames.dtype == np.uint8
    assert frames.shape == (17, 28, 44, 3)
    np.testing.assert_array_equal(frames, np.stack([np.asarray(image) for image in expected]))


def test_latents_are_scaled_as_the_pipeline_scales_them():
    vae = make_vae()
    pipeline = CogVideoXPipeline(None, None, vae, None, None)
    latents = make_latents(vae, 3, 5, 7)
    expected = pipeline.decode_latents(latents)
    assert torch.equal(streamed(CogVideoXFrameDecoder(vae, tiling=False), latents), expected)


class Watched:
    """Latents that remember the last frame that was asked for."""

    def __init__(self, latents: torch.Tensor) -> None:
        self.latents, self.shape, self.touched = latents, latents.shape, 0

    def __getitem__(self, index):
        self.touched = max(self.touched, index[1].stop)
        return self.latents[index]


def test_a_batch_of_frames_is_given_before_the_next_latents_are_touched():
    vae = make_vae()
    latents = Watched(make_latents(vae, 9, 7, 11))
    touched = []
    for frames in stream_decode(CogVideoXFrameDecoder(vae, tiling=True), latents):
        touched.append(latents.touched)
        assert len(frames) in (8, 9)
    assert touched == [3, 5, 7, 9]


class Counted(CogVideoXFrameDecoder):
    """Counts decoded tiles that are still alive when a batch begins."""

    def __init__(self, vae) -> None:
        super().__init__(vae, tiling=True)
        self.alive, self.most, self.largest_cache = [], 0, 0

    def decode_tile(self, latents_BFCHW, cache):
        self.alive = [tile for tile in self.alive if tile() is not None]
        self.most = max(self.most, len(self.alive))
        pixels, cache = super().decode_tile(latents_BFCHW, cache)
        self.alive.append(weakref.ref(pixels))
        self.largest_cache = max(self.largest_cache, cache_bytes(cache))
        return pixels, cache


def cache_bytes(cache) -> int:
    if isinstance(cache, torch.Tensor):
        return cache.untyped_storage().nbytes()
    return sum(map(cache_bytes, cache.values())) if cache else 0


def test_memory_does_not_grow_with_the_video():
    vae, most, caches = make_vae(), [], []
    for frames in (5, 13):
        decoder = Counted(vae)
        for _ in stream_decode(decoder, make_latents(vae, frames, 7, 11)):
            pass
        most.append(decoder.most)
        caches.append(decoder.largest_cache)
    # Four tiles make a picture: when one is decoded, the three others of its batch are alive.
    assert most == [3, 3]
    assert caches[0] == caches[1]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_latents_are_named(value):
    vae = make_vae()
    latents = make_latents(vae, 9, 6, 10)
    latents[0, 6, 1, 2, 3] = value
    frames = stream_decode(CogVideoXFrameDecoder(vae, tiling=False), latents)
    assert len(next(frames)) == 9
    assert len(next(frames)) == 8
    with pytest.raises(NonFiniteError, match="latent frame 6 holds NaN or infinity"):
        next(frames)


def test_non_finite_pixels_are_named():
    vae = make_vae()
    decoder = CogVideoXFrameDecoder(vae, tiling=False)
    decode_tile = decoder.decode_tile

    def overflowing(latents, cache):
        pixels, new_cache = decode_tile(latents, cache)
        if cache is not None:
            pixels[:, 2, 0, 0, 0] = float("inf")
        return pixels, new_cache

    decoder.decode_tile = overflowing
    with pytest.raises(NonFiniteError, match=r"pixel frame 11 holds .* the VAE overflowed"):
        list(stream_decode(decoder, make_latents(vae, 5, 6, 10)))


def test_several_videos_at_once_are_refused():
    vae = make_vae()
    decoder = CogVideoXFrameDecoder(vae, tiling=False)
    with pytest.raises(ValueError, match="one video at a time, got a batch of 2"):
        stream_decode(decoder, make_latents(vae, 3, 6, 10, batch=2))


class TestLoad:
    CPU = torch.device("cpu")
    DEFAULT = DecodeSpec()

    def load(self, folder, decode=DEFAULT, dtype=torch.float32) -> CogVideoXFrameDecoder:
        return load_frame_decoder(folder, dtype=dtype, device=self.CPU, decode=decode)

    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        make_vae().save_pretrained(tmp_path / "vae")
        return tmp_path

    def test_loads_the_vae_of_a_folder(self, folder):
        decoder = load_frame_decoder(
            folder, dtype=torch.float32, device=self.CPU, decode=DecodeSpec()
        )
        vae = make_vae()
        latents = make_latents(vae, 3, 7, 11)
        expected = vae.tiled_decode(reference_latents(vae, latents)).sample
        torch.testing.assert_close(streamed(decoder, latents), expected, rtol=0, atol=1e-5)

    def test_faster_convolutions_are_those_of_diffusers_decode_as_well(self, folder):
        decoder = load_frame_decoder(
            folder, dtype=torch.float32, device=self.CPU, decode=DecodeSpec()
        )
        vae = decoder._vae
        latents = make_latents(vae, 5, 7, 11)
        expected = vae.tiled_decode(reference_latents(vae, latents)).sample
        assert torch.equal(streamed(decoder, latents), expected)

    def test_precision(self, folder):
        decoder = load_frame_decoder(
            folder, dtype=torch.bfloat16, device=self.CPU, decode=DecodeSpec()
        )
        latents = make_latents(make_vae(), 1, 6, 10)
        assert next(stream_pixels(decoder, latents)).dtype == torch.bfloat16

    def test_tiling_can_be_turned_off(self, folder):
        assert self.load(folder, DecodeSpec(tiling="off")).facts.tiles is None
        assert self.load(folder, DecodeSpec(tiling="on")).facts.tiles is not None

    def test_tiles_that_do_not_make_up_a_picture(self, tmp_path):
        make_vae(sample=(32, 48)).save_pretrained(tmp_path / "vae")
        assert self.load(tmp_path).facts.tiles is None
        with pytest.raises(UserError, match=r"decode.tiling = 'on': tiles of 16 x 24 pixels"):
            check_tiling(tmp_path, DecodeSpec(tiling="on"))

    def test_tiles_that_do_not_make_up_a_picture_are_not_in_silence_left_out(self, folder):
        """48 pixels of a tile, a quarter of which is 12: three latent cells, of 4 pixels each."""
        check_tiling(folder, DecodeSpec(tile_height=48, tile_width=16, tile_overlap=0.25))
        with pytest.raises(UserError) as error:
            check_tiling(folder, DecodeSpec(tile_height=44, tile_width=16, tile_overlap=0.25))
        assert str(error.value) == (
            "decode.tile_height = 44: tiles of 44 x 16 pixels do not make up a picture: with this "
            "overlap each gives 33 x 12 pixels of it, but the next starts 32 x 12 further on; "
            "sides and overlaps must be multiples of 4 pixels, for example decode.tile_height = "
            "decode.tile_width = 16 with decode.tile_overlap = 0.25"
        )

    def test_tile_sizes_without_tiles(self, folder):
        with pytest.raises(UserError) as error:
            check_tiling(folder, DecodeSpec(tiling="off", tile_width=16))
        assert str(error.value) == (
            "decode.tile_width = 16: there are no tiles with decode.tiling = 'off'; use 'auto' or "
            "leave the key out"
        )

    @pytest.mark.parametrize("overlap", [0.25, 0.0])
    def test_tiles_of_the_users_own(self, folder, overlap):
        decode = DecodeSpec(tile_height=16, tile_width=32, tile_overlap=overlap)
        check_tiling(folder, decode)
        decoder = self.load(folder, decode)
        vae = decoder._vae
        latents = make_latents(vae, 3, 6, 9)
        vae.enable_tiling(16, 32)
        # Not by enable_tiling, which takes 0 for the default.
        vae.tile_overlap_factor_height = vae.tile_overlap_factor_width = overlap
        expected = vae.tiled_decode(reference_latents(vae, latents)).sample
        assert expected.shape[-2:] == (24, 36)
        assert torch.equal(streamed(decoder, latents), expected)
        assert not torch.equal(
            streamed(CogVideoXFrameDecoder(vae, tiling=False), latents), expected
        )

    def test_the_embedded_model_decodes_in_tiles_of_the_users_own(self):
        """Its 64 x 96 pixels are too few for the VAE's own tiles."""
        own = DecodeSpec(tile_height=32, tile_width=64, tile_overlap=0.25)
        model = ModelSpec(path="package:toyworld")
        registry.check_decode(model, own)
        decoder = registry.load_frame_decoder(model, own, self.CPU)
        whole = registry.load_frame_decoder(model, DecodeSpec(), self.CPU)
        assert whole.facts.tiles is None
        latents = make_latents(decoder._vae, 1, 8, 12)
        expected = decoder._vae.tiled_decode(reference_latents(decoder._vae, latents)).sample
        assert expected.shape[-2:] == (64, 96)
        assert torch.equal(streamed(decoder, latents), expected)
        assert streamed(whole, latents).shape == expected.shape
