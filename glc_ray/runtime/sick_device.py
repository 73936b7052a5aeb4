"""A device that failed in a way from which its process does not recover."""

from __future__ import annotations

import logging
import os
import re
from typing import NoReturn

import torch

_LOG = logging.getLogger(__name__)
_SICK = re.compile(r"CUDA error|CUDNN_STATUS|CUBLAS_STATUS")
"""In the text of what torch raises as a plain RuntimeError."""


def is_sick(error: Exception) -> bool:
    """Whether an error is of the device: a CUDA context does not heal after one.

    Memory that is used up is none: the next work may need less.
    """
    # Torch 2.6 and 2.7 do not have the type.
    if isinstance(error, getattr(torch, "AcceleratorError", ())):
        return True
    return type(error) is RuntimeError and _SICK.search(str(error)) is not None


def end_process() -> NoReturn:
    """End this actor's process, in whatever state its device is; Ray starts the actor anew."""
    _LOG.error("the device failed, and this process with it; it is started anew")
    # Of an actor that leaves by Ray's own way Ray starts no other.
    os._exit(1)
