"""What befell actors, in lines for the person who watches the run."""

from __future__ import annotations

_KEPT = 32


class Notices:
    """Lines that nobody has fetched yet; of very many the first ones and a count."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._others = 0

    def add(self, line: str) -> None:
        """Add a line."""
        if len(self._lines) < _KEPT:
            self._lines.append(line)
        else:
            self._others += 1

    def take(self) -> list[str]:
        """The lines since the last call."""
        lines, others = self._lines, self._others
        self._lines, self._others = [], 0
        return [*lines, f"and {others} more such lines"] if others else lines
