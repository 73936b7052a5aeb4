"""Train the VAE's decoder further while its encoder, and so the latents, stay as they are.

Can follow the denoiser's training. The latents get a little noise, as the denoiser's own have
it. Starts from `<build>/vae_scaled.pt`, resumes from `<build>/decoder.pt`.
"""

import argparse
import copy
import time
from pathlib import Path

import models
import torch
import world
from train_vae import BUILD, clips, psnr, weighted_error
from training import Trainer, learning_rate_scale

STEPS = 1000
LEARNING_RATE = 1e-3
LATENT_NOISE = 0.03
"""Standard deviation of the noise; that of the latents is 1."""


def loss_of(vae, decoder, video, mask) -> torch.Tensor:
    """Weighted error of the reconstruction by `decoder` of latents by the frozen encoder."""
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            latents = vae.encode(video).latent_dist.mode()
        vae.decoder = decoder
        reconstruction = vae.decode(latents + LATENT_NOISE * torch.randn_like(latents)).sample
    return weighted_error(reconstruction.float(), video, mask)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=BUILD)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    checkpoint = args.build / "decoder.pt"

    vae = models.build_vae()
    vae.load_state_dict(torch.load(args.build / "vae_scaled.pt", weights_only=True))
    trainer = Trainer(
        copy.deepcopy(vae.decoder), learning_rate=LEARNING_RATE, ema_decay=0.995, muon_size=2000
    )
    trainer.restore(checkpoint)
    started, losses = time.monotonic(), []
    while trainer.step < args.steps:
        step = trainer.step
        seed = 10**8 + step * trainer.num_processes + trainer.rank
        torch.manual_seed(seed)
        video, mask = clips(seed, world.TRAINING, *((2, 9) if step % 2 else (1, 17)))
        loss = loss_of(vae, trainer.model, video, mask)
        scale = learning_rate_scale(step, warmup=50, decay_from=args.steps // 3, total=args.steps)
        trainer.update(loss, scale)
        losses.append(loss.item())
        if trainer.rank == 0 and trainer.step % 50 == 0:
            seconds, mean = time.monotonic() - started, sum(losses) / len(losses)
            print(f"step {trainer.step} loss {mean:.4f} after {seconds:.0f} s", flush=True)
            losses.clear()
        if trainer.step % 100 == 0 or trainer.step == args.steps:
            trainer.save(checkpoint)
    if trainer.rank == 0:
        vae.decoder = trainer.average
        print(f"held-out {psnr(vae):.2f} dB", flush=True)


if __name__ == "__main__":
    main()
