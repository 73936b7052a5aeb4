"""Anchor attention (ABAM): keys and values of a clip pulled towards those of the anchor clip."""

from __future__ import annotations

import torch
from torch import Tensor


def blend(
    own: Tensor,
    anchor: Tensor,
    weight: float,
    *,
    literal: bool = False,
    out: Tensor | None = None,
) -> Tensor:
    """Keys or values of a clip, blended with the anchor's (Eq. 10).

    ``(1 - weight) * own + weight * anchor`` (decided: the paper's prose, in which a lower lambda
    means less anchor). A weight of 0 gives ``own`` bit for bit, and so does an anchor that equals
    it, at any weight.

    Args:
        own: keys or values of video tokens, any shape.
        anchor: of the same tokens of the anchor clip; broadcast over ``own``.
        weight: lambda, 0..1.
        literal: Eq. 10 as printed, ``weight * own + (1 - weight) * anchor``.
        out: where to, ``own`` itself for instance, to the same bits; None is a new tensor.
    """
    return torch.lerp(own, anchor, 1 - weight if literal else weight, out=out)
