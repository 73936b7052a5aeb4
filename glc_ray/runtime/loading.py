"""A model's load, again where it failed by something that may pass."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import torch

_Model = TypeVar("_Model")

_LOG = logging.getLogger(__name__)
_PAUSES_S = (2.0, 10.0)


def loaded(load: Callable[[], _Model]) -> _Model:
    """What ``load`` returns; what may pass is waited for, as Ray starts no actor anew whose start
    has failed.

    It is storage that does not answer for a moment, or memory of the device that the process before
    has not given back yet.
    """
    for pause_s in _PAUSES_S:
        try:
            return load()
        except (OSError, torch.OutOfMemoryError) as error:
            _LOG.warning("the model cannot be loaded, once more in %.0f s: %s", pause_s, error)
        time.sleep(pause_s)
        torch.cuda.empty_cache()
    return load()
