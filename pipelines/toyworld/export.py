"""Write the trained parts as a diffusers folder of fp16 safetensors."""

import argparse
from pathlib import Path

import models
import torch
from diffusers import CogVideoXPipeline
from train_vae import BUILD
from training import load_average

FOLDER = Path("glc_ray/backbones/toyworld")


def assemble(build: Path) -> CogVideoXPipeline:
    """The pipeline in float32; a part that has no checkpoint in `build` keeps random weights."""
    vae, transformer = models.build_vae(), models.build_transformer()
    if (build / "vae_scaled.pt").exists():
        vae.load_state_dict(torch.load(build / "vae_scaled.pt", weights_only=True))
    if (build / "decoder.pt").exists():
        load_average(vae.decoder, build / "decoder.pt")
    if (build / "denoiser.pt").exists():
        load_average(transformer, build / "denoiser.pt")
    return CogVideoXPipeline(
        tokenizer=models.build_tokenizer(),
        text_encoder=models.build_text_encoder(),
        vae=vae.eval(),
        transformer=transformer.eval(),
        scheduler=models.build_scheduler(),
    )


def _tidy(folder: Path) -> None:
    """Name the tokenizer's class as every transformers version knows it; make files readable."""
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    config = folder / "tokenizer" / "tokenizer_config.json"
    config.write_text(config.read_text().replace("TokenizersBackend", "PreTrainedTokenizerFast"))
    for file in folder.rglob("*.safetensors"):
        file.chmod(0o644)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", type=Path, default=BUILD)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    args = parser.parse_args()
    assemble(args.build).to(torch.float16).save_pretrained(args.folder)
    _tidy(args.folder)
    size_bytes = sum(file.stat().st_size for file in args.folder.rglob("*") if file.is_file())
    print(f"{args.folder}: {size_bytes / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
