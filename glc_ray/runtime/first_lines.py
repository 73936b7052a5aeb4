"""Where in a catalog each name and each video came first, in 16 bytes a row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Lines = NDArray[np.int64]


class FirstLines:
    """A mapping of 64-bit digests to line numbers, for millions.

    Kept as sorted runs, each longer than all later ones, so that a digest is moved and looked for a
    logarithmic number of times.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[Keys, Lines]] = []

    def find(self, keys: Keys) -> Lines:
        """The line of each key; 0 where it is new."""
        lines = np.zeros(len(keys), np.int64)
        for known, at in self._runs:
            places = np.minimum(np.searchsorted(known, keys), len(known) - 1)
            is_known = known[places] == keys
            lines[is_known] = at[places[is_known]]
        return lines

    def keys(self) -> Keys:
        """All keys, sorted."""
        runs = [known for known, _ in self._runs]
        return np.sort(np.concatenate(runs)) if runs else np.empty(0, np.uint64)

    def add(self, keys: Keys, lines: Lines) -> None:
        """Add new keys, all different."""
        if not len(keys):
            return
        order = np.argsort(keys)
        run = (keys[order], lines[order])
        while self._runs and len(self._runs[-1][0]) <= len(run[0]):
            run = _merged(self._runs.pop(), run)
        self._runs.append(run)


def _merged(first: tuple[Keys, Lines], second: tuple[Keys, Lines]) -> tuple[Keys, Lines]:
    keys = np.concatenate([first[0], second[0]])
    order = np.argsort(keys, kind="stable")
    return keys[order], np.concatenate([first[1], second[1]])[order]
