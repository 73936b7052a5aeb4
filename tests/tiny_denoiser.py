"""A denoiser in this process, with one of the tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from glc_ray.config import VideoJob
from glc_ray.pipeline_file import load_pipeline
from glc_ray.sampler import LocalDenoiser


def denoiser_of(folder: Path, *overrides: tuple[str, Any]) -> LocalDenoiser:
    """GLC with anchor attention on a video of three windows (9 latent frames)."""
    spec = load_pipeline(
        "toyworld",
        [
            ("model.path", str(folder)),
            ("video.num_frames", 33),
            ("denoise.batch_size", 2),
            ("denoise.threads", torch.get_num_threads()),
            *overrides,
        ],
    )
    return LocalDenoiser.of(VideoJob(prompt="a red ball", pipeline=spec), torch.device("cpu"))
