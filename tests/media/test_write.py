"""Latents to files with a real VAE class and a real ffmpeg."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from glc_ray.backbones.registry import load_frame_decoder
from glc_ray.config import DecodeSpec, EncodeSpec, ModelSpec
from glc_ray.media.contact_sheet import ContactSheet
from glc_ray.media.decode import NonFiniteError, stream_decode, stream_pixels
from glc_ray.media.segments import SegmentFile, join
from glc_ray.media.stretch import segments
from glc_ray.media.write import WrittenSegment, write_segments
from glc_ray.protocols import FrameDecoder


@pytest.fixture(scope="module")
def decoder(tiny_model: Callable[[str], Path]) -> FrameDecoder:
    model = ModelSpec(backbone="cogvideox", path=str(tiny_model("sincos")))
    return load_frame_decoder(model, DecodeSpec(), torch.device("cpu"))


@pytest.fixture
def latents() -> torch.Tensor:
    return torch.randn(1, 5, 4, 8, 12, generator=torch.Generator().manual_seed(0))


def write(decoder, latents, folder: Path, num_frames=17, **settings) -> list[WrittenSegment]:
    parts = segments(
        decoder.facts, latents.shape[1], num_frames=num_frames, segment_latent_frames=2
    )
    return list(
        write_segments(
            decoder,
            latents,
            parts,
            folder,
            num_frames=num_frames,
            fps=8,
            settings=EncodeSpec(**settings),
        )
    )


def test_segments_join_to_the_video(decoder, latents, tmp_path):
    written = write(decoder, latents, tmp_path, crf=1, preset="fast")
    assert [one.path.name for one in written] == ["00000.mp4", "00001.mp4"]
    assert [one.report.num_frames for one in written] == [9, 8]
    files = [SegmentFile(one.path, one.report.num_frames) for one in written]
    join(files, tmp_path / "v.mp4", fps=8, settings=EncodeSpec(), metadata={"title": "a ball"})
    expected = np.concatenate(list(stream_decode(decoder, latents)))
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.metadata["title"] == "a ball"
        frames = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert frames.shape == expected.shape
    # Noise has colour that yuv420p halves: compare the means of blocks.
    blocks = (frames.astype(float) - expected).reshape(17, 8, 4, 12, 4, 3).mean((2, 4))
    assert np.abs(blocks).mean() < 4


def test_pictures_of_all_segments_make_up_the_contact_sheet(decoder, latents, tmp_path):
    sheet = ContactSheet(17, title="a red ball", fps=8)
    for one in reversed(write(decoder, latents, tmp_path)):
        sheet.merge(one.pictures)
    whole = ContactSheet(17, title="a red ball", fps=8)
    for frames in stream_decode(decoder, latents):
        whole.add(frames)
    assert np.array_equal(np.asarray(sheet.image()), np.asarray(whole.image()))


def test_more_bits_than_eight_come_from_the_decoder_itself(decoder, latents, tmp_path):
    written = write(decoder, latents, tmp_path, format="ffv1")
    pixels = torch.cat(list(stream_pixels(decoder, latents)), dim=1)[0].permute(0, 2, 3, 1)
    expected = ((pixels.double() + 1) / 2).clamp(0, 1) * 65535
    frames = []
    for one in written:
        with av.open(str(one.path)) as container:
            frames += [f.to_ndarray(format="rgb48le") for f in container.decode(video=0)]
    np.testing.assert_allclose(np.stack(frames), expected.numpy(), atol=0.51)


def test_frames_beyond_the_video_are_dropped(decoder, latents, tmp_path):
    written = write(decoder, latents, tmp_path, num_frames=13)
    assert sum(one.report.num_frames for one in written) == 13


def test_latents_that_are_not_finite_leave_no_file(decoder, latents, tmp_path):
    latents[0, 4, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="latent frame 4 holds NaN"):
        write(decoder, latents, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["00000.mp4"], "the first was whole"


def test_eight_bits_are_those_of_sixteen_rounded(decoder, latents):
    eight = np.concatenate(list(stream_decode(decoder, latents)))
    sixteen = np.concatenate(list(stream_decode(decoder, latents, bit_depth=16)))
    assert (eight.dtype, sixteen.dtype) == (np.uint8, np.uint16)
    assert np.abs(eight - sixteen / 257).max() <= 0.51
