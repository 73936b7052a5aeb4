"""Write the shipped weights as checkpoints of `build/toyworld/`, to train on from them.

Then encode clips that no training saw (`encode_latents.py --first`), and go on with
`train_denoiser.py --frame-steps 0`. The optimisers start anew. Refuses to replace checkpoints.
"""

import argparse
from pathlib import Path

import torch
from diffusers import CogVideoXPipeline
from export import FOLDER
from train_vae import BUILD


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--build", type=Path, default=BUILD)
    args = parser.parse_args()
    found = [name for name in ("vae_scaled.pt", "denoiser.pt") if (args.build / name).exists()]
    if found:
        parser.error(f"{args.build} has {' and '.join(found)}: training would lose them")

    args.build.mkdir(parents=True, exist_ok=True)
    pipeline = CogVideoXPipeline.from_pretrained(args.folder, dtype=torch.float32)
    weights = pipeline.transformer.state_dict()
    torch.save(pipeline.vae.state_dict(), args.build / "vae_scaled.pt")
    torch.save({"step": 0, "model": weights, "average": weights}, args.build / "denoiser.pt")


if __name__ == "__main__":
    main()
