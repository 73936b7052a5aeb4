"""Text features of clips: prompts mixed for each, and kept where the transformer takes them.

Layout suffixes: ``N`` clips, ``P`` prompts.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor

from glc_ray.protocols import Conditioning, Forward

_KEPT = 8
"""Mixtures that stay on the device: 30 MB for CogVideoX (226 tokens of 4,096 in bfloat16, both
branches of guidance), 67 MB for Wan (512 tokens). Clips of one batch show few."""


class PromptFeatures:
    """Mixes the prompts of clips, and keeps what was mixed last for those that show the same.

    Nearly all windows of a video do: within one prompt there is one mixture, step after step.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """For a transformer that takes them there, in that dtype."""
        self._device = device
        self._dtype = dtype
        self._kept: OrderedDict[tuple[str, tuple[float, ...]], dict[str, Tensor]] = OrderedDict()

    def of(self, forward: Forward, conditioning: Conditioning) -> dict[str, Tensor]:
        """The features of a forward's clips, each (N, 2, ...): a copy.

        Args:
            forward: which video, and how much each prompt counts for each clip.
            conditioning: of the video's prompts, the same for all its forwards until ``clear``.
        """
        clips = [
            self._clip((forward.video, weights), conditioning) for weights in forward.prompt_weights
        ]
        return {name: torch.stack([clip[name] for clip in clips]) for name in conditioning.tensors}

    def clear(self) -> None:
        """Let go of all of them."""
        self._kept.clear()

    def _clip(
        self, key: tuple[str, tuple[float, ...]], conditioning: Conditioning
    ) -> dict[str, Tensor]:
        features = self._kept.pop(key, None)
        if features is None:
            # A copy, also on the CPU: what lies in Ray's store would stay there for its sake.
            features = {
                name: mixture(prompts, key[1]).to(self._device, self._dtype, copy=True)
                for name, prompts in conditioning.tensors.items()
            }
            if len(self._kept) >= _KEPT:
                self._kept.popitem(last=False)
        self._kept[key] = features
        return features


def mixture(prompts: Tensor, weights: tuple[float, ...]) -> Tensor:
    """Text features of one clip: a weighted sum of the prompts'.

    Args:
        prompts: (P, 2, ...).
        weights: of each prompt; one of weight 1 is taken as it is, bit for bit.

    Returns:
        (2, ...); a mixture is computed in float32, or wider where ``prompts`` are.
    """
    if max(weights) == 1:
        return prompts[weights.index(1)]
    wide = prompts.to(torch.promote_types(prompts.dtype, torch.float32))
    return torch.tensordot(torch.tensor(weights, dtype=wide.dtype), wide, dims=1)
