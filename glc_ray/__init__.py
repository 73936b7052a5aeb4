"""glc-ray: tuning-free long video rendering with GLC-Diffusion on a Ray cluster.

``from glc_ray import render`` gives the Python front door; ``python -m glc_ray.render`` the
command line.
"""

__version__ = "0.1.0"
