"""What a noise scheduler keeps from step to step, as tensors and JSON values, and back.

Nothing here names what a scheduler of diffusers keeps: it is whatever has changed since its
timesteps were set, so that no attribute, of this version or the next, can be left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from glc_ray.protocols import SchedulerState


def attributes(scheduler: Any) -> dict[str, Any]:
    """Everything that a scheduler of diffusers is made of.

    Tensors are not copied: a step puts new ones in their place and writes into none. Lists are, as
    it moves tensors within them.
    """
    return {name: _own(value) for name, value in vars(scheduler).items()}


def changes(scheduler: Any, start: Mapping[str, Any]) -> dict[str, Any]:
    """The `attributes` that are others than at the start, or were not there."""
    return {
        name: value
        for name, value in attributes(scheduler).items()
        if name not in start or not _is_same(value, start[name])
    }


def put_back(scheduler: Any, start: Mapping[str, Any], changed: Mapping[str, Any]) -> None:
    """Give a scheduler the attributes of its start with these changes, and no others."""
    vars(scheduler).clear()
    vars(scheduler).update({name: _own(value) for name, value in {**start, **changed}.items()})


def pack(parts: Mapping[str, Any]) -> SchedulerState:
    """Named tensors, JSON scalars, and lists of either (or both), parted by kind.

    The tensor at position i of list ``x`` is called ``x.i``, and the list has None in its place.

    Raises:
        TypeError: a part is of another kind.
    """
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for name, part in parts.items():
        if isinstance(part, Tensor):
            tensors[name] = part
        elif isinstance(part, list):
            tensors |= {f"{name}.{i}": one for i, one in enumerate(part) if isinstance(one, Tensor)}
            values[name] = [None if isinstance(one, Tensor) else _scalar(name, one) for one in part]
        else:
            values[name] = _scalar(name, part)
    return SchedulerState(tensors, values)


def unpack(state: SchedulerState) -> dict[str, Any]:
    """The parts that were packed."""
    parts = {name: _own(value) for name, value in state.values.items()}
    for name, tensor in state.tensors.items():
        holder, _, position = name.rpartition(".")
        if isinstance(parts.get(holder), list):
            parts[holder][int(position)] = tensor
        else:
            parts[name] = tensor
    return parts


def _own(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value


def _is_same(value: Any, other: Any) -> bool:
    if isinstance(value, list) and isinstance(other, list) and len(value) == len(other):
        return all(one is another for one, another in zip(value, other, strict=True))
    return value is other


def _scalar(name: str, value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(
        f"{name} is a {type(value).__name__}: the state of a noise scheduler is made of tensors, "
        "numbers, texts and lists of them"
    )
