"""Train the video autoencoder. Resumes from `<build>/vae.pt`."""

import argparse
import time
from pathlib import Path

import models
import numpy as np
import torch
import world
from training import Trainer, learning_rate_scale

BUILD = Path("build/toyworld")
CROP_STEPS, FULL_STEPS = 1700, 200
LEARNING_RATE = 2e-3
KL_WEIGHT = 5e-5
OBJECT_WEIGHT = 3.0
"""Extra weight of an object's pixel."""
CROP_HEIGHT, CROP_WIDTH = 32, 48


def clips(seed: int, captions, num_clips: int, num_frames: int, cropped: bool = False):
    """Videos (B, 3, F, H, W) in [-1, 1] and object masks (B, 1, F, H, W) of random captions."""
    rng = np.random.default_rng(seed)
    videos, masks = [], []
    for _ in range(num_clips):
        scene = world.sample_scene(rng, captions[rng.integers(len(captions))])
        video, mask = world.render(scene, num_frames)
        rows, columns = crop(rng, mask) if cropped else (slice(None), slice(None))
        videos.append(video[:, rows, columns])
        masks.append(mask[:, rows, columns])
    video = torch.from_numpy(np.stack(videos)).permute(0, 4, 1, 2, 3).contiguous()
    return video * 2 - 1, torch.from_numpy(np.stack(masks))[:, None]


def crop(rng: np.random.Generator, mask: np.ndarray) -> tuple[slice, slice]:
    """A quarter of the picture on the latent grid, with the clip's middle object centre in it."""
    y, x = (place.mean() for place in np.nonzero(mask[len(mask) // 2] > 0.5))
    top = 8 * round((y - rng.uniform(6, CROP_HEIGHT - 6)) / 8)
    left = 8 * round((x - rng.uniform(6, CROP_WIDTH - 6)) / 8)
    top = min(max(top, 0), world.HEIGHT - CROP_HEIGHT)
    left = min(max(left, 0), world.WIDTH - CROP_WIDTH)
    return slice(top, top + CROP_HEIGHT), slice(left, left + CROP_WIDTH)


def weighted_error(reconstruction, video, mask) -> torch.Tensor:
    """Mean absolute plus squared error, with more weight on the object."""
    error = reconstruction - video
    return ((1 + OBJECT_WEIGHT * mask) * (error.abs() + error.square())).mean()


def loss_of(vae, video, mask) -> torch.Tensor:
    """Weighted error of the reconstruction from sampled latents, with a light KL term."""
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(video).latent_dist
        reconstruction = vae.decode(posterior.sample()).sample
    fidelity = weighted_error(reconstruction.float(), video, mask)
    latents = posterior.mean.numel()
    return fidelity + KL_WEIGHT * posterior.kl().float().sum() / latents


@torch.no_grad()
def psnr(vae, num_clips: int = 16, num_frames: int = 17) -> float:
    """Decibels over clips of held-out captions, peak to peak 1."""
    video, _ = clips(10**6, world.HELD_OUT, num_clips, num_frames)
    errors = [
        (vae.decode(vae.encode(v[None]).latent_dist.mode()).sample.clamp(-1, 1) - v[None])
        .square()
        .mean()
        for v in video
    ]
    return float(-10 * torch.log10(torch.stack(errors).mean() / 4))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=BUILD)
    parser.add_argument("--crop-steps", type=int, default=CROP_STEPS)
    parser.add_argument("--full-steps", type=int, default=FULL_STEPS)
    args = parser.parse_args()
    args.build.mkdir(parents=True, exist_ok=True)
    checkpoint = args.build / "vae.pt"
    total = args.crop_steps + args.full_steps

    trainer = Trainer(
        models.build_vae(), learning_rate=LEARNING_RATE, ema_decay=0.995, muon_size=2000
    )
    trainer.restore(checkpoint)
    started, losses = time.monotonic(), []
    while trainer.step < total:
        step = trainer.step
        seed = step * trainer.num_processes + trainer.rank
        torch.manual_seed(seed)
        # Nine frames are one temporal batch of the VAE; seventeen also train the cached path.
        size = (2, 9) if step % 2 else (1, 17)
        video, mask = clips(seed, world.TRAINING, *size, cropped=step < args.crop_steps)
        loss = loss_of(trainer.model, video, mask)
        scale = learning_rate_scale(step, warmup=100, decay_from=total // 4, total=total)
        trainer.update(loss, scale)
        losses.append(loss.item())
        if trainer.rank == 0 and trainer.step % 50 == 0:
            seconds = time.monotonic() - started
            mean = sum(losses) / len(losses)
            print(f"step {trainer.step} loss {mean:.4f} after {seconds:.0f} s", flush=True)
            losses.clear()
        if trainer.step % 100 == 0 or trainer.step == total:
            trainer.save(checkpoint)
    if trainer.rank == 0:
        print(f"held-out {psnr(trainer.average):.2f} dB", flush=True)


if __name__ == "__main__":
    main()
