"""The denoiser actor: one loaded model that answers batches of windows."""

from __future__ import annotations

import time
import uuid
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import ray
import torch

from glc_ray.backbones.registry import load_backbone
from glc_ray.config import PipelineSpec
from glc_ray.protocols import Conditioning, Forward, UserError
from glc_ray.runtime.loading import loaded
from glc_ray.runtime.messages import Array, WindowBatch, WindowBatchResult


def assigned_device() -> torch.device:
    """The GPU that Ray gave this actor, else the CPU.

    Raises:
        UserError: Ray gave a GPU and torch cannot use it.
    """
    if not ray.get_gpu_ids():
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError(
            f"resources: Ray gave this actor a GPU, but torch {torch.__version__} cannot use it; "
            "install a CUDA build of torch on every node, or set num_gpus to 0"
        )
    return torch.device("cuda")


class Denoiser:
    """Whatever worker computes a batch, the answer is the same: an anchor that it keeps is one that
    it would compute again to the same bits."""

    def __init__(self, pipeline: PipelineSpec) -> None:
        torch.set_num_threads(pipeline.denoise.threads)
        self._device = assigned_device()
        self.backbone = loaded(lambda: load_backbone(pipeline, self._device))
        self._life = uuid.uuid4().hex
        self._halvings = 0

    def ready(self) -> str:
        """Answers once the model is loaded, with a token of this process's life."""
        return self._life

    def encode_prompts(self, prompts: tuple[str, ...], negative_prompt: str) -> dict[str, Array]:
        """The text features that ``denoise`` takes (float32: numpy has no bfloat16)."""
        conditioning = self.backbone.encode_prompts(prompts, negative_prompt)
        return {name: value.float().numpy() for name, value in conditioning.tensors.items()}

    def denoise(
        self,
        batch: WindowBatch,
        conditioning: Mapping[str, Array],
        anchor_BFCHW: Array | None = None,
    ) -> WindowBatchResult:
        """One guided forward of all clips of the batch.

        Args:
            batch: the clips and what to do with them.
            conditioning: text features of the video's prompts.
            anchor_BFCHW: the clip of the path's anchor, should this worker have to compute it.

        Raises:
            FloatingPointError: a prediction is not finite.
        """
        start = time.perf_counter()
        anchor_forwards, self._halvings = self.backbone.anchor_forwards, 0
        pin = self._device.type == "cuda"
        predictions = self._predict(
            _owned(batch.clips_BFCHW, pin),
            batch.forward,
            Conditioning({name: _shared(value) for name, value in conditioning.items()}),
            None if anchor_BFCHW is None else _owned(anchor_BFCHW, pin),
        )
        array = predictions.cpu().numpy()
        if not np.isfinite(array).all():
            raise FloatingPointError("the model's prediction has NaN or infinite values")
        return WindowBatchResult(
            predictions_BFCHW=array,
            forward_s=time.perf_counter() - start,
            anchor_forwards=self.backbone.anchor_forwards - anchor_forwards,
            halvings=self._halvings,
        )

    def _predict(
        self,
        clips_BFCHW: torch.Tensor,
        forward: Forward,
        conditioning: Conditioning,
        anchor_BFCHW: torch.Tensor | None,
    ) -> torch.Tensor:
        """The backbone's prediction, by halves where the device has no memory for all at once."""
        try:
            return self.backbone.predict(clips_BFCHW, forward, conditioning, anchor_BFCHW)
        except torch.OutOfMemoryError:
            if len(clips_BFCHW) == 1:
                raise
        # Outside of the handler, whose traceback holds the failed forward's activations.
        self._halvings += 1
        torch.cuda.empty_cache()
        middle = len(clips_BFCHW) // 2
        halves = (slice(None, middle), slice(middle, None))
        return torch.cat(
            [
                self._predict(clips_BFCHW[half], forward.part(half), conditioning, anchor_BFCHW)
                for half in halves
            ]
        )


def start_denoisers(pipeline: PipelineSpec) -> list[Any]:
    """Start the pool's workers; each loads the model and is restarted wherever there is room."""
    resources = pipeline.resources.denoisers
    actor = ray.remote(Denoiser).options(
        num_cpus=resources.num_cpus,
        num_gpus=resources.num_gpus,
        resources=resources.custom,
        max_restarts=-1,
    )
    return [actor.remote(pipeline) for _ in range(resources.count)]


def _owned(array: np.ndarray, pin: bool = False) -> torch.Tensor:
    """A tensor that may be written: what Ray shares is read-only and everybody's."""
    tensor = torch.tensor(array)
    return tensor.pin_memory() if pin else tensor


def _shared(array: np.ndarray) -> torch.Tensor:
    """A tensor over what Ray shares, without a copy: nothing may write to it."""
    with warnings.catch_warnings():
        # Torch knows no tensors that are read-only. The features of a long timeline's prompts are
        # hundreds of megabytes, of which a forward reads those of its own clips, if any.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(array)
