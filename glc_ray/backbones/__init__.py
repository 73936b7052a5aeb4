"""Adapters of diffusion models; the only importer of diffusers."""
