"""Eq. 10, as decided and as printed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glc_ray.core.anchor import blend


def pair(seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((2, 3, 2, 5, 4), generator=generator).to(dtype).unbind()


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_weight_is_the_share_of_the_anchor(weight):
    own, anchor = pair(dtype=torch.float64)
    expected = (1 - weight) * own + weight * anchor
    torch.testing.assert_close(blend(own, anchor, weight), expected)


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.9])
def test_as_printed_it_is_the_share_of_the_own(weight):
    own, anchor = pair(dtype=torch.float64)
    expected = weight * own + (1 - weight) * anchor
    torch.testing.assert_close(blend(own, anchor, weight, literal=True), expected)


@given(weight=st.floats(0, 1), literal=st.booleans(), seed=st.integers(0, 99))
def test_equal_tensors_stay_as_they_are(weight, literal, seed):
    for dtype in (torch.float32, torch.bfloat16):
        own, _ = pair(seed, dtype)
        assert torch.equal(blend(own, own.clone(), weight, literal=literal), own)


def test_without_a_share_of_the_anchor_nothing_changes():
    own, anchor = pair()
    assert torch.equal(blend(own, anchor, 0.0), own)
    assert torch.equal(blend(own, anchor, 1.0, literal=True), own)
