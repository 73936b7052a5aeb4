"""Pure torch mathematics of the method: no Ray, no diffusers."""
