"""Latents to files with a real VAE class and a real ffmpeg."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLCogVideoX
from PIL import Image

from glc_ray.backbones.cogvideox_vae import CogVideoXFrameDecoder
from glc_ray.config import EncodeSpec
from glc_ray.media.decode import NonFiniteError, stream_decode, stream_pixels
from glc_ray.media.write import write_video


@pytest.fixture(scope="module")
def decoder() -> CogVideoXFrameDecoder:
    torch.manual_seed(0)
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 3,
        up_block_types=("CogVideoXUpBlock3D",) * 3,
        block_out_channels=(8, 8, 8),
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        sample_height=48,
        sample_width=80,
    )
    return CogVideoXFrameDecoder(vae, tiling=True)


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(1, 5, 4, 8, 12, generator=torch.Generator().manual_seed(0))


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def write(decoder, latents, folder: Path, **options):
    options = {"num_frames": 17, "fps": 8, "prompt": "a red ball", **options}
    return write_video(decoder, latents, folder / "v.mp4", folder / "s.png", **options)


def test_video_and_contact_sheet(decoder, latents, tmp_path):
    done = []
    report = write(
        decoder,
        latents,
        tmp_path,
        settings=EncodeSpec(crf=1, preset="fast"),
        metadata={"title": "a red ball"},
        on_frames=done.append,
    )
    assert names(tmp_path) == ["s.png", "v.mp4"]
    assert (report.num_frames, report.width, report.height) == (17, 48, 32)
    assert report.decode_s > 0
    assert done == [9, 17]
    expected = np.concatenate(list(stream_decode(decoder, latents)))
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.metadata["title"] == "a red ball"
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert frames.shape == expected.shape
    # Noise has colour that yuv420p halves: compare the means of blocks.
    blocks = (frames.astype(float) - expected).reshape(17, 8, 4, 12, 4, 3).mean((2, 4))
    assert np.abs(blocks).mean() < 4
    with Image.open(tmp_path / "s.png") as image:
        assert image.width > 900


def test_more_bits_than_eight_come_from_the_decoder_itself(decoder, latents, tmp_path):
    settings = EncodeSpec(format="ffv1")
    video = tmp_path / "v.mkv"
    write_video(
        decoder,
        latents,
        video,
        tmp_path / "s.png",
        num_frames=17,
        fps=8,
        prompt="",
        settings=settings,
    )
    pixels = torch.cat(list(stream_pixels(decoder, latents)), dim=1)[0].permute(0, 2, 3, 1)
    expected = ((pixels.double() + 1) / 2).clamp(0, 1) * 65535
    with av.open(str(video)) as container:
        frames = [f.to_ndarray(format="rgb48le") for f in container.decode(video=0)]
    # Rounded, of float32.
    assert np.abs(np.stack(frames) - expected.numpy()).max() < 0.51


def test_eight_bits_are_those_of_sixteen_rounded(decoder, latents):
    eight = np.concatenate(list(stream_decode(decoder, latents)))
    sixteen = np.concatenate(list(stream_decode(decoder, latents, bit_depth=16)))
    assert (eight.dtype, sixteen.dtype) == (np.uint8, np.uint16)
    assert np.abs(eight - sixteen / 257).max() <= 0.51


def test_a_wrong_number_of_frames_leaves_nothing(decoder, latents, tmp_path):
    with pytest.raises(ValueError, match="the latents decode to 17 frames; 21 are needed"):
        write(decoder, latents, tmp_path, num_frames=21)
    assert names(tmp_path) == []


def test_corrupt_latents_leave_nothing(decoder, latents, tmp_path):
    latents[0, 4] = float("nan")
    with pytest.raises(NonFiniteError, match="latent frame 4"):
        write(decoder, latents, tmp_path)
    assert names(tmp_path) == []
