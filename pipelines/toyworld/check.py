"""Measure the exported model: does a clip show what its prompt says, and how good is the VAE?

Samples one native clip for each held-out prompt and judges it by rule. Exits with 1 if the object's
colour or shape, the ground or the sky is right in fewer than 95% of the clips.
"""

import argparse
import sys
import time
from pathlib import Path

import models
import numpy as np
import torch
import world
from diffusers import CogVideoXPipeline
from export import FOLDER
from judge import KINDS, right_words
from PIL import Image
from train_vae import psnr

from glc_ray.backbones.scheduler_choice import build
from glc_ray.pipeline_file import load_pipeline

REQUIRED, REQUIRED_KINDS = 0.95, ("colour", "shape", "ground", "sky")
"""Share of the clips in which these words must be right."""
SAMPLING = load_pipeline("toyworld", ()).sampling
BATCH = 8


def sample(
    pipeline: CogVideoXPipeline,
    prompts: list[str],
    *,
    num_frames: int,
    steps: int = SAMPLING.num_steps,
    guidance_scale: float = SAMPLING.guidance_scale,
) -> np.ndarray:
    """One clip for each prompt, (B, F, H, W, 3) in [0, 1]; the clip's index is its seed."""
    pipeline.set_progress_bar_config(disable=True)
    clips = []
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        output = pipeline(
            batch,
            num_frames=num_frames,
            num_inference_steps=steps,
            guidance_scale=guidance_scale,
            max_sequence_length=models.TEXT_LENGTH,
            generator=[torch.Generator().manual_seed(start + i) for i in range(len(batch))],
            output_type="np",
        )
        clips.append(output.frames)
    return np.concatenate(clips)


def count_right(captions: list[world.Caption], clips: np.ndarray) -> dict[str, int]:
    """Clips that show what the caption says, for each kind of word and for all five at once."""
    words = [right_words(clip, caption) for clip, caption in zip(clips, captions, strict=True)]
    counts = {kind: sum(right[kind] for right in words) for kind in KINDS}
    return counts | {"all five": sum(all(right.values()) for right in words)}


def write_sheet(path: Path, clips: np.ndarray, every: int = 4) -> None:
    """A PNG with a row for each clip, every fourth frame."""
    rows = [np.concatenate(list(clip[::every]), axis=1) for clip in clips]
    Image.fromarray((np.concatenate(rows) * 255).round().astype(np.uint8)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--steps", type=int, default=SAMPLING.num_steps)
    parser.add_argument("--guidance-scale", type=float, default=SAMPLING.guidance_scale)
    parser.add_argument(
        "--scheduler", default=SAMPLING.scheduler, help="a diffusers class, or model"
    )
    parser.add_argument("--prompts", type=int, default=len(world.HELD_OUT), help="use the first N")
    parser.add_argument("--sheet", type=Path, help="also write the clips' frames to this PNG")
    args = parser.parse_args()

    pipeline = CogVideoXPipeline.from_pretrained(args.folder, dtype=torch.float32)
    spec = load_pipeline("toyworld", [("sampling.scheduler", args.scheduler)])
    pipeline.scheduler = build(spec.model, spec.sampling)
    captions = list(world.HELD_OUT[: args.prompts])
    started = time.monotonic()
    clips = sample(
        pipeline,
        [str(caption) for caption in captions],
        num_frames=pipeline.transformer.config.sample_frames,
        steps=args.steps,
        guidance_scale=args.guidance_scale,
    )
    print(f"{len(clips)} held-out prompts, {time.monotonic() - started:.0f} s")
    if args.sheet:
        write_sheet(args.sheet, clips)
    counts = count_right(captions, clips)
    for kind, count in counts.items():
        print(f"right {kind:<9}{count:>4} of {len(clips)}")
    print(f"VAE on held-out clips: {psnr(pipeline.vae):.1f} dB")
    if min(counts[kind] for kind in REQUIRED_KINDS) < REQUIRED * len(clips):
        sys.exit(f"below {REQUIRED:.0%}")


if __name__ == "__main__":
    main()
