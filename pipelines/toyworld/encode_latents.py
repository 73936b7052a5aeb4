"""Encode the denoiser's training set once: clips to latents, in shards. Skips shards it finds.

First brings every latent channel to standard deviation 1 and writes the VAE that does so to
`<build>/vae_scaled.pt`. Then writes `<build>/latents/<first clip>.pt`: latents (N, F, 16, 8, 12)
float16 and the index of each clip's caption in `world.TRAINING`. The denoiser's training can
start on the first shards; it reads those that are there when it starts.
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
from train_vae import BUILD
from training import load_average

NUM_CLIPS, NUM_CLIPS_MEASURED, SHARD = 6000, 100, 200
NUM_LATENT_FRAMES = 12
NUM_FRAMES = 4 * (NUM_LATENT_FRAMES - 1) + 1
SEED = 10**7


@torch.inference_mode()
def encode_clip(vae, index: int) -> tuple[np.ndarray, int]:
    """Latents (F, 16, 8, 12) and caption index of one training clip."""
    rng = np.random.default_rng([SEED, index])
    # Each round over the captions takes them in another order.
    round_index, place = divmod(index, len(world.TRAINING))
    order = np.random.default_rng([SEED, round_index, 1]).permutation(len(world.TRAINING))
    caption_index = int(order[place])
    video, _ = world.render(world.sample_scene(rng, world.TRAINING[caption_index]), NUM_FRAMES)
    pixels = torch.from_numpy(video).permute(3, 0, 1, 2)[None] * 2 - 1
    with torch.autocast("cpu", torch.bfloat16):
        latents = vae.encode(pixels).latent_dist.mode()[0].float()
    return latents.transpose(0, 1).half().numpy(), caption_index


def encode_clips(pool: Executor, vae, indices: range) -> dict[str, torch.Tensor]:
    """Encode these clips of the training set."""
    latents, captions = zip(
        *pool.map(partial(encode_clip, vae), indices, chunksize=25), strict=True
    )
    return {"latents": torch.from_numpy(np.stack(latents)), "captions": torch.tensor(captions)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=BUILD)
    parser.add_argument("--first", type=int, default=0, help="the first clip's number")
    parser.add_argument("--clips", type=int, default=NUM_CLIPS)
    parser.add_argument("--processes", type=int, default=2)
    args = parser.parse_args()
    if args.first % SHARD or args.clips % SHARD:
        parser.error(f"--first and --clips: a shard has {SHARD} clips; give multiples of it")
    shards, scaled = args.build / "latents", args.build / "vae_scaled.pt"
    shards.mkdir(exist_ok=True)

    vae = models.build_vae().eval().requires_grad_(False)
    with ProcessPoolExecutor(
        args.processes, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        if scaled.exists():
            vae.load_state_dict(torch.load(scaled, weights_only=True))
        else:
            load_average(vae, args.build / "vae.pt")
            sample = encode_clips(pool, vae, range(NUM_CLIPS_MEASURED))["latents"]
            models.rescale_latents(vae, sample.float().std((0, 1, 3, 4)))
            torch.save(vae.state_dict(), scaled)
        end = args.first + args.clips
        for start in range(args.first, end, SHARD):
            shard = shards / f"{start:06d}.pt"
            if not shard.exists():
                clips = encode_clips(pool, vae, range(start, start + SHARD))
                torch.save(clips, shard.with_suffix(".partial"))
                shard.with_suffix(".partial").replace(shard)
                print(f"encoded up to clip {start + len(clips['captions'])}", flush=True)


if __name__ == "__main__":
    main()
