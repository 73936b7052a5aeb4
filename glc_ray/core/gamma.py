"""How much the global path weighs at each timestep."""

from __future__ import annotations

import math

GAMMA_PRESETS: dict[str, tuple[float, float]] = {
    "paper": (0.005, 0.0005),
    "annealed": (0.005, 0.005),
}
"""(gamma0, beta) by name. ``paper`` is §7 read literally: 0.0082 at t = 999, 0.0050 at 0.
``annealed`` has the shape that the paper's prose describes: 0.74 at t = 999, 0.0050 at 0."""

_LARGEST_EXPONENT = 700.0  # exp overflows a float just above; the clamp has long since taken hold


def gamma(timestep: float, *, gamma0: float, beta: float) -> float:
    """Share of the global path, γ(t) = clamp(γ0·exp(β·t), 0, 1) (Eq. 9, §7; the clamp is decided).

    Args:
        timestep: train timestep, 0..999.
        gamma0: share at t = 0.
        beta: growth per train timestep.
    """
    return min(max(gamma0 * math.exp(min(beta * timestep, _LARGEST_EXPONENT)), 0.0), 1.0)
