"""Local shuffling against diffusers' FreeNoise, for the same generator."""

import pytest
import torch
from diffusers.pipelines.free_noise_utils import AnimateDiffFreeNoiseMixin

from glc_ray.core.noise import SeededNoise, shuffled_noise


class FreeNoise(AnimateDiffFreeNoiseMixin):
    vae_scale_factor = 8

    def __init__(self, context_length, context_stride):
        self._free_noise_context_length = context_length
        self._free_noise_context_stride = context_stride
        self._free_noise_noise_type = "shuffle_context"

    def noise_BFCHW(self, num_frames, height, width, generator):
        # One channel: then (B, C, F, H, W) and (B, F, C, H, W) draw the same numbers in one order.
        latents_BCFHW = self._prepare_latents_free_noise(
            1, 1, num_frames, height * 8, width * 8, torch.float32, torch.device("cpu"), generator
        )
        return latents_BCFHW.transpose(1, 2)


@pytest.mark.parametrize("num_latent_frames", [13, 14, 16, 17, 37, 40, 73])
@pytest.mark.parametrize(
    ("window_size", "chunk_size"), [(13, 4), (13, 1), (13, 13), (7, 4), (7, 3)]
)
def test_shuffled_noise_is_that_of_diffusers(num_latent_frames, window_size, chunk_size):
    theirs = FreeNoise(window_size, chunk_size).noise_BFCHW(
        num_latent_frames, 3, 5, torch.Generator().manual_seed(42)
    )
    ours = shuffled_noise(
        (1, num_latent_frames, 1, 3, 5), window_size, SeededNoise(42), chunk_size=chunk_size
    )
    assert torch.equal(ours, theirs)
