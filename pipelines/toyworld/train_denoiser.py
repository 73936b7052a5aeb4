"""Train the denoiser: single latent frames first, then windows. Resumes from `denoiser.pt`.

The first stage teaches what things look like and what the words mean at a seventh of the cost;
the second teaches motion. Both see latents from anywhere in a clip.
"""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import models
import torch
import world
from torch.nn import functional
from train_vae import BUILD
from training import Trainer, learning_rate_scale

FRAME_STEPS, FRAME_BATCH = 600, 32
WINDOW_STEPS, WINDOW_BATCH = 1150, 8
"""Steps, and the batch of each process."""
LEARNING_RATE = 1.5e-3
OBJECT_WEIGHT = 3.0
"""Extra weight of a latent cell that the object fills, in the first stage only.

It binds colours early, but it also biases the prediction towards an object wherever one may be.
"""
EMPTY_PROMPTS = 0.1


class LatentData:
    """Random windows of the encoded clips, with prompt embeddings."""

    def __init__(self, path: Path) -> None:
        data = torch.load(path, weights_only=True, mmap=True)
        self.latents, self.masks, self.captions = data["latents"], data["masks"], data["captions"]
        prompts = [str(caption) for caption in world.TRAINING] + [""]
        self.embeddings = models.encode_text(
            models.build_tokenizer(), models.build_text_encoder(), prompts
        )

    def draw(self, batch: int, window: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Latents (B, F, 16, 8, 12), masks (B, F, 1, 8, 12) and text (B, 16, 64)."""
        num_clips, num_latent_frames = self.latents.shape[:2]
        clips = torch.randint(num_clips, (batch,))
        starts = torch.randint(num_latent_frames - window + 1, (batch, 1))
        frames = starts + torch.arange(window)
        latents = self.latents[clips[:, None], frames].float()
        masks = self.masks[clips[:, None], frames].float()[:, :, None] / 255
        captions = torch.where(torch.rand(batch) < EMPTY_PROMPTS, -1, self.captions[clips])
        return latents, masks, self.embeddings[captions]


@contextmanager
def float32_attention() -> Iterator[None]:
    """Attend in float32 under autocast too: on a CPU its backward pass is twice as fast so."""
    attend = functional.scaled_dot_product_attention

    def attend_float32(query, key, value, **options):
        with torch.autocast("cpu", enabled=False):
            return attend(query.float(), key.float(), value.float(), **options)

    with mock.patch.object(functional, "scaled_dot_product_attention", attend_float32):
        yield


def loss_of(transformer, scheduler, latents, masks, text, object_weight: float) -> torch.Tensor:
    """Squared error of the predicted velocity, with extra weight on the object."""
    batch = len(latents)
    # One timestep in each equal part of the schedule, in random order: less variance. The power
    # draws more of the noisy ones, at which the object's place is decided.
    quantiles = (torch.randperm(batch) + torch.rand(batch)) / batch
    timesteps = (quantiles**0.75 * 1000).long().clamp(max=999)
    noise = torch.randn_like(latents)
    noisy = scheduler.add_noise(latents, noise, timesteps)
    velocity = scheduler.get_velocity(latents, noise, timesteps)
    with torch.autocast("cpu", torch.bfloat16), float32_attention():
        prediction = transformer(noisy, text, timesteps, return_dict=False)[0]
    weight = 1 + object_weight * masks
    return (weight * (prediction.float() - velocity).square()).sum() / (
        weight.sum() * latents.shape[2]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=BUILD)
    parser.add_argument("--frame-steps", type=int, default=FRAME_STEPS)
    parser.add_argument("--window-steps", type=int, default=WINDOW_STEPS)
    args = parser.parse_args()
    checkpoint = args.build / "denoiser.pt"
    total = args.frame_steps + args.window_steps

    data = LatentData(args.build / "latents.pt")
    scheduler = models.build_scheduler()
    trainer = Trainer(
        models.build_transformer(),
        learning_rate=LEARNING_RATE,
        ema_decay=0.998,
        muon_size=float("inf"),
    )
    trainer.restore(checkpoint)
    started, losses = time.monotonic(), []
    while trainer.step < total:
        step = trainer.step
        torch.manual_seed(step * trainer.num_processes + trainer.rank)
        single = step < args.frame_steps
        batch = data.draw(FRAME_BATCH, 1) if single else data.draw(WINDOW_BATCH, models.WINDOW)
        scale = learning_rate_scale(step, warmup=100, decay_from=total * 6 // 10, total=total)
        loss = loss_of(trainer.model, scheduler, *batch, OBJECT_WEIGHT if single else 0.0)
        trainer.update(loss, scale)
        losses.append(loss.item())
        if trainer.rank == 0 and trainer.step % 25 == 0:
            seconds, mean = time.monotonic() - started, sum(losses) / len(losses)
            print(f"step {trainer.step} loss {mean:.4f} after {seconds:.0f} s", flush=True)
            losses.clear()
        if trainer.step % 100 == 0 or trainer.step == total:
            trainer.save(checkpoint)


if __name__ == "__main__":
    main()
