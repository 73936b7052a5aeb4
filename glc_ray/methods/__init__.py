"""Sampling methods, each a short composition over glc_ray.core."""
