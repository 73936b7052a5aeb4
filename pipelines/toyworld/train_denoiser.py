"""Train the denoiser: single latent frames first, then windows. Resumes from `denoiser.pt`.

The first stage teaches what things look like and what the words mean at a seventh of the cost;
the second teaches motion. Both see latents from anywhere in a clip. Stop it and start it again to
read latents that were encoded meanwhile.
"""

import argparse
import math
import time
from pathlib import Path
from unittest import mock

import models
import numpy as np
import torch
import world
from torch.nn import functional
from train_vae import BUILD
from training import Trainer, learning_rate_scale

FRAME_STEPS, FRAME_BATCH = 400, 48
WINDOW_STEPS, WINDOW_BATCH = 21_600, 12
"""Steps, and the batch of each process."""
LEARNING_RATE = 2e-3
MUON_SIZE = 20_000
"""The first and last layers, which are smaller, are left to AdamW."""
EMPTY_PROMPTS = 0.1
NOISY_POWER = 0.4
"""Timesteps are drawn as 1000 times the power of a uniform number: 62% of them lie above 680,
where the object's path is decided. Below that, the model keeps to the path that it is given."""
EXPECTED_LOSS = {
    0: 0.17, 20: 0.17, 100: 0.058, 200: 0.034, 300: 0.026, 500: 0.022, 600: 0.026, 700: 0.037,
    800: 0.071, 900: 0.19, 950: 0.30, 1000: 0.37,
}  # fmt: skip
"""Timestep to squared error, as the model had it after 12,000 steps. Each timestep's loss is
divided by it: near pure noise nearly all of it is chance, which would drown the rest."""


class LatentData:
    """Random windows of the encoded clips, with prompt embeddings."""

    def __init__(self, folder: Path) -> None:
        shards = [torch.load(path, weights_only=True) for path in sorted(folder.glob("*.pt"))]
        self.latents = torch.cat([shard["latents"] for shard in shards])
        self.captions = torch.cat([shard["captions"] for shard in shards])
        prompts = [str(caption) for caption in world.TRAINING] + [""]
        self.embeddings = models.encode_text(
            models.build_tokenizer(), models.build_text_encoder(), prompts
        )

    def draw(self, batch: int, window: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents (B, F, 16, 8, 12) and text (B, 16, 64)."""
        num_clips, num_latent_frames = self.latents.shape[:2]
        clips = torch.randint(num_clips, (batch,))
        starts = torch.randint(num_latent_frames - window + 1, (batch, 1))
        latents = self.latents[clips[:, None], starts + torch.arange(window)].float()
        captions = torch.where(torch.rand(batch) < EMPTY_PROMPTS, -1, self.captions[clips])
        return latents, self.embeddings[captions]


def attend(query, key, value, **_options) -> torch.Tensor:
    """Attention by matrix products in bfloat16 with a softmax in float32.

    On a CPU with bfloat16 instructions and this few tokens, forward and backward take less than
    half the time of PyTorch's own.
    """
    query, key, value = query.bfloat16(), key.bfloat16(), value.bfloat16()
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    return scores.float().softmax(-1).bfloat16() @ value


def loss_of(transformer, scheduler, latents, text) -> torch.Tensor:
    """Squared error of the predicted velocity, by what is expected at each timestep."""
    batch = len(latents)
    # One timestep in each equal part of the distribution, in random order: less variance.
    quantiles = (torch.randperm(batch) + torch.rand(batch)) / batch
    timesteps = (quantiles**NOISY_POWER * 1000).long().clamp(max=999)
    expected = np.interp(timesteps, list(EXPECTED_LOSS), list(EXPECTED_LOSS.values()))
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    velocity = scheduler.get_velocity(latents, noise, timesteps)
    with (
        torch.autocast("cpu", torch.bfloat16),
        mock.patch.object(functional, "scaled_dot_product_attention", attend),
    ):
        prediction = transformer(noisy, text, timesteps, return_dict=False)[0]
    errors = (prediction.float() - velocity).square().mean((1, 2, 3, 4))
    return (errors / torch.from_numpy(expected)).mean().float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=BUILD)
    parser.add_argument("--frame-steps", type=int, default=FRAME_STEPS)
    parser.add_argument("--window-steps", type=int, default=WINDOW_STEPS)
    parser.add_argument("--learning-rate", type=float, default=LEARNING_RATE)
    args = parser.parse_args()
    checkpoint = args.build / "denoiser.pt"
    total = args.frame_steps + args.window_steps

    data = LatentData(args.build / "latents")
    scheduler = models.build_scheduler()
    trainer = Trainer(
        models.build_transformer(),
        learning_rate=args.learning_rate,
        ema_decay=0.998,
        muon_size=MUON_SIZE,
    )
    trainer.restore(checkpoint)
    started, losses = time.monotonic(), []
    while trainer.step < total:
        step = trainer.step
        torch.manual_seed(step * trainer.num_processes + trainer.rank)
        single = step < args.frame_steps
        batch = data.draw(FRAME_BATCH, 1) if single else data.draw(WINDOW_BATCH, models.WINDOW)
        scale = learning_rate_scale(step, warmup=100, decay_from=0, total=total)
        loss = loss_of(trainer.model, scheduler, *batch)
        trainer.update(loss, scale)
        losses.append(loss.item())
        if trainer.step % 100 == 0 or trainer.step == total:
            trainer.save(checkpoint)
        if trainer.rank == 0 and trainer.step % 25 == 0:
            seconds, mean = time.monotonic() - started, sum(losses) / len(losses)
            print(f"step {trainer.step} loss {mean:.4f} after {seconds:.0f} s", flush=True)
            losses.clear()


if __name__ == "__main__":
    main()
