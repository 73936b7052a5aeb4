"""Encode the denoiser's training set once: clips to latents, with pooled object masks.

First brings every latent channel to standard deviation 1 and writes the VAE that does so to
`<build>/vae_scaled.pt`. Then writes `<build>/latents.pt`: latents (N, F, 16, 8, 12) float16,
masks (N, F, 8, 12) uint8 (share of the object in a cell, times 255) and the index of each clip's
caption in `world.TRAINING`.
"""

import argparse
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import models
import numpy as np
import torch
import world
from torch.nn import functional
from train_vae import BUILD
from training import load_average

NUM_CLIPS, NUM_CLIPS_MEASURED = 3600, 100
NUM_LATENT_FRAMES = 12
NUM_FRAMES = 4 * (NUM_LATENT_FRAMES - 1) + 1
SEED = 10**7


def pool_mask(mask: np.ndarray) -> torch.Tensor:
    """Object masks (F, H, W) of frames to those of latent frames, (1 + (F-1)/4, H/8, W/8)."""
    cells = functional.avg_pool2d(torch.from_numpy(mask)[:, None], 8)[:, 0]
    later = cells[1:].unflatten(0, (-1, 4)).amax(1)
    return torch.cat([cells[:1], later])


@torch.inference_mode()
def encode_clip(vae, index: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Latents (F, 16, 8, 12), pooled mask and caption index of one training clip."""
    rng = np.random.default_rng([SEED, index])
    # Each round over the captions takes them in another order.
    round_index, place = divmod(index, len(world.TRAINING))
    order = np.random.default_rng([SEED, round_index, 1]).permutation(len(world.TRAINING))
    caption_index = int(order[place])
    video, mask = world.render(world.sample_scene(rng, world.TRAINING[caption_index]), NUM_FRAMES)
    pixels = torch.from_numpy(video).permute(3, 0, 1, 2)[None] * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        latents = vae.encode(pixels).latent_dist.mode()[0].float()
    pooled = (pool_mask(mask) * 255).byte()
    return latents.transpose(0, 1).half().numpy(), pooled.numpy(), caption_index


def encode_clips(pool: Executor, vae, num_clips: int) -> dict[str, torch.Tensor]:
    """Encode the first `num_clips` clips of the training set."""
    clips = pool.map(partial(encode_clip, vae), range(num_clips), chunksize=25)
    latents, masks, captions = zip(*clips, strict=True)
    return {
        "latents": torch.from_numpy(np.stack(latents)),
        "masks": torch.from_numpy(np.stack(masks)),
        "captions": torch.tensor(captions),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=BUILD)
    parser.add_argument("--clips", type=int, default=NUM_CLIPS)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()

    vae = load_average(models.build_vae(), args.build / "vae.pt")
    with ProcessPoolExecutor(
        args.processes, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        sample = encode_clips(pool, vae, NUM_CLIPS_MEASURED)["latents"]
        models.rescale_latents(vae, sample.float().std((0, 1, 3, 4)))
        torch.save(vae.state_dict(), args.build / "vae_scaled.pt")
        torch.save(encode_clips(pool, vae, args.clips), args.build / "latents.pt")


if __name__ == "__main__":
    main()
