"""Packages that only some scores need."""

from __future__ import annotations

from glc_ray.protocols import UserError

EXTRA = "pip install 'glc-ray[evaluate]'"


def missing(scores: str, packages: str, install: str = EXTRA) -> UserError:
    """The error of scores whose packages are not installed."""
    return UserError(
        f"--scores {scores}: needs {packages}, which is not installed: {install}; or name other "
        "scores (`glc-ray evaluate --help` lists them)"
    )
