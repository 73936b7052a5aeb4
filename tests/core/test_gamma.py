"""γ(t): Eq. 9 and the figures of §7 under both readings."""

import pytest

from glc_ray.core.gamma import GAMMA_PRESETS, gamma


@pytest.mark.parametrize(
    ("preset", "at_start", "at_end"), [("paper", 0.00824, 0.005), ("annealed", 0.738, 0.005)]
)
def test_presets_run_as_described(preset, at_start, at_end):
    gamma0, beta = GAMMA_PRESETS[preset]
    assert gamma(999, gamma0=gamma0, beta=beta) == pytest.approx(at_start, rel=1e-3)
    assert gamma(0, gamma0=gamma0, beta=beta) == at_end


@pytest.mark.parametrize(
    ("gamma0", "beta", "expected"), [(0.5, 0.005, 1.0), (0.005, 10.0, 1.0), (-1.0, 0.0, 0.0)]
)
def test_gamma_is_clamped_to_a_share(gamma0, beta, expected):
    assert gamma(999, gamma0=gamma0, beta=beta) == expected


def test_no_global_share_at_gamma0_of_0():
    assert gamma(999, gamma0=0.0, beta=10.0) == 0.0
