"""Tensors of a GPU that wait in main memory until they are needed again."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST_BYTES = 1 << 20
"""Of a piece, but for the last of a tensor: thousands of small copies would take longer."""


class InMainMemory:
    """A copy of a tensor in main memory, page-locked where it comes from a GPU.

    In pieces of powers of two bytes. To these torch rounds up whatever it locks: a tensor in one
    piece would take up to twice its bytes, and so would all tensors of a model in one.
    """

    def __init__(self, tensor: Tensor) -> None:
        """Copy it, and wait until the copy is there: another stream could read it before."""
        self._shape = tensor.shape
        self._sizes = piece_sizes(tensor.numel(), tensor.element_size())
        self._pieces = [
            torch.empty(len(part), dtype=part.dtype, pin_memory=part.is_cuda).copy_(part)
            for part in tensor.reshape(-1).split(self._sizes)
        ]

    @property
    def nbytes(self) -> int:
        """Of the tensor."""
        return sum(piece.nbytes for piece in self._pieces)

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Tensor:
        """The tensor on a device, as ``Tensor.to`` gives it."""
        flat = torch.empty(sum(self._sizes), dtype=self._pieces[0].dtype, device=device)
        for part, piece in zip(flat.split(self._sizes), self._pieces, strict=True):
            part.copy_(piece, non_blocking=non_blocking)
        return flat.view(self._shape)


def piece_sizes(num_elements: int, element_bytes: int) -> list[int]:
    """Elements of each piece of a tensor, the largest first.

    Args:
        num_elements: of the tensor, 1 or more.
        element_bytes: of one element, a power of two.
    """
    sizes = []
    while num_elements * element_bytes >= _LEAST_BYTES:
        sizes.append(1 << (num_elements.bit_length() - 1))
        num_elements -= sizes[-1]
    return [*sizes, num_elements] if num_elements else sizes
