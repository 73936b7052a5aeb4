"""The denoiser actor: one loaded model that answers batches of windows."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np
import ray
import torch

from glc_ray.backbones.registry import load_backbone
from glc_ray.config import ModelSpec
from glc_ray.protocols import Conditioning
from glc_ray.runtime.messages import Array, WindowBatch, WindowBatchResult


def assigned_device() -> torch.device:
    """The GPU that Ray gave this actor, else the CPU."""
    return torch.device("cuda" if ray.get_gpu_ids() and torch.cuda.is_available() else "cpu")


class Denoiser:
    """Holds no state of any video: whatever worker computes a batch, the answer is the same."""

    def __init__(self, model: ModelSpec, threads: int) -> None:
        torch.set_num_threads(threads)
        self.backbone = load_backbone(model, assigned_device())

    def ready(self) -> bool:
        """Answers once the model is loaded."""
        return True

    def encode_prompt(self, prompt: str, negative_prompt: str) -> dict[str, Array]:
        """The text features that ``denoise`` takes (float32: numpy has no bfloat16)."""
        conditioning = self.backbone.encode_prompt(prompt, negative_prompt)
        return {name: value.float().numpy() for name, value in conditioning.tensors.items()}

    def denoise(self, batch: WindowBatch, conditioning: Mapping[str, Array]) -> WindowBatchResult:
        """One guided forward of all clips of the batch."""
        start = time.perf_counter()
        predictions = self.backbone.predict(
            _owned(batch.clips_BFCHW, pin=torch.cuda.is_available()),
            batch.timestep,
            Conditioning({name: _owned(value) for name, value in conditioning.items()}),
            batch.guidance_scale,
        )
        array = predictions.cpu().numpy()
        return WindowBatchResult(batch.attempt, array, time.perf_counter() - start)


def _owned(array: np.ndarray, pin: bool = False) -> torch.Tensor:
    """A tensor that may be written: what Ray shares is read-only and everybody's."""
    tensor = torch.tensor(array)
    return tensor.pin_memory() if pin else tensor
