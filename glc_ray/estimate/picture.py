"""The windows of a step, drawn in text: one line a window, over the length of the video."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import wrap

from glc_ray.protocols import AnchorAttention, Path, StepPlan, Window

_BESIDE_BAR = 30
"""Characters of a line that are not the bar: the window's number, edges, anchor and padding."""
_SHORTEST_BAR = 10
_SHADES = ("░", "▒", "▓", "█")
_ASCII_SHADES = (".", "-", "=", "#")


@dataclass(frozen=True)
class Canvas:
    """How much room a picture has."""

    num_latent_frames: int
    """K of the video."""
    rows: int = 22
    """Lines at most, titles of paths among them."""
    is_ascii: bool = False
    """Draw with ASCII alone."""
    columns: int = 80
    """Characters of a line."""

    @property
    def frames_per_cell(self) -> int:
        """Latent frames that share one character."""
        return -(-self.num_latent_frames // self._bar)

    @property
    def cells_per_frame(self) -> int:
        """Characters of one latent frame, where the video is short."""
        return max(1, self._bar // self.num_latent_frames)

    @property
    def _bar(self) -> int:
        return max(_SHORTEST_BAR, self.columns - _BESIDE_BAR)

    @property
    def shades(self) -> tuple[str, ...]:
        """For fusion weights up to a quarter of a window's greatest, up to a half, and so on."""
        return _ASCII_SHADES if self.is_ascii else _SHADES

    def bar(self, window: Window) -> str:
        """Where the window's frames lie, shaded by their fusion weight."""
        cells = [0.0] * -(-self.num_latent_frames // self.frames_per_cell)
        greatest = max(window.weights)
        for frame, weight in zip(window.frames, window.weights, strict=True):
            cell = frame // self.frames_per_cell
            cells[cell] = max(cells[cell], weight / greatest)
        return "".join(self._shade(weight) * self.cells_per_frame for weight in cells)

    def _shade(self, weight: float) -> str:
        if weight <= 0:
            return " "
        return self.shades[math.ceil(weight * len(self.shades)) - 1]


def draw(plan: StepPlan, canvas: Canvas) -> Iterator[str]:
    """Lines for the canvas; windows that there is no room for are left out in the middle.

    None is longer than the canvas is wide, from 40 columns on.
    """
    room = canvas.rows // len(plan.paths) - 1
    for path in plan.paths:
        yield from wrap(_title(path), canvas.columns)
        for window in _shown(path.windows, room):
            if window is None:
                dots = "..." if canvas.is_ascii else "⋮"
                yield f"{dots:>5} {len(path.windows) - room + 1} windows more"
            else:
                edge = "|" if canvas.is_ascii else "│"
                line = f"{window.index:>5} {edge}{canvas.bar(window)}{edge} {_mark(path, window)}"
                yield line.rstrip()


def legend(canvas: Canvas) -> str:
    """What a character of the picture stands for."""
    cell = "1 latent frame"
    if canvas.frames_per_cell > 1:
        cell = f"{canvas.frames_per_cell} latent frames"
    elif canvas.cells_per_frame > 1:
        cell = f"1/{canvas.cells_per_frame} latent frame"
    return (
        f"a character is {cell}; shade: fusion weight within the window; padding: latent frames "
        "of a clip beyond the video's end, which count for nothing"
    )


def _title(path: Path) -> str:
    windows = f"{len(path.windows)} window{'s' if len(path.windows) > 1 else ''}"
    parts = [f"share {path.share:.3g}", f"{windows} of {len(path.windows[0].frames)} latent frames"]
    if path.attention is not None:
        name = type(path.attention).__name__.removesuffix("Attention").lower()
        parts.append(f"{name} attention")
    if isinstance(path.attention, AnchorAttention):
        parts[-1] += f" ({path.attention.weight:g})"
    return f"{path.name}: {', '.join(parts)}"


def _shown(windows: tuple[Window, ...], room: int) -> list[Window | None]:
    """The windows that there is room for; None in place of the others."""
    if len(windows) <= room:
        return list(windows)
    head = room // 2
    tail = room - 1 - head
    return [*windows[:head], None, *windows[len(windows) - tail :]]


def _mark(path: Path, window: Window) -> str:
    padding = sum(weight == 0 for weight in window.weights)
    marks = ["anchor"] if window == path.anchor else []
    marks += [f"{padding} padding"] if padding else []
    return ", ".join(marks)
