"""glc-ray: tuning-free long video rendering with GLC-Diffusion on a Ray cluster.

``from glc_ray import render`` gives the Python front door; ``python -m glc_ray.render`` the
command line.
"""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Not imported with the package: the actors need no command line.
    if name == "render":
        from importlib import import_module

        return import_module("glc_ray.render")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
