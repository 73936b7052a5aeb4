"""Fusion: Eq. 3, 8, 9."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from glc_ray.core import fusion as fusion_module
from glc_ray.core.fusion import Fusion, frame_weights
from glc_ray.core.windows import global_windows, local_windows
from glc_ray.protocols import Path, StepPlan, Window


@st.composite
def plans(draw, max_latent_frames=60):
    """(K, plan) with a global and a local path, for any K ≥ L, s, J, γ."""
    window_size = draw(st.integers(1, 13))
    num_latent_frames = draw(st.integers(window_size, max(window_size, max_latent_frames)))
    stride = draw(st.integers(1, window_size))
    shift = draw(st.integers(0, stride - 1))
    gamma = draw(st.floats(0, 1))
    far = global_windows(num_latent_frames, window_size)
    near = local_windows(num_latent_frames, window_size, stride, shift, first_index=len(far))
    return num_latent_frames, plan_of(("global", gamma, far), ("local", 1 - gamma, near))


def plan_of(*paths):
    paths = tuple(Path(name=name, share=share, windows=tuple(w)) for name, share, w in paths)
    return StepPlan(step_index=7, timestep=500, paths=paths)


def window(index, frames, weights=None, path="local"):
    weights = weights or (1.0,) * len(frames)
    return Window(index=index, path=path, frames=tuple(frames), weights=tuple(weights))


def fuse(plan, predictions, num_latent_frames, dtype=torch.float32):
    shape = (1, num_latent_frames, *predictions[0].shape[2:])
    fusion = Fusion(plan, shape, dtype=dtype)
    for window, prediction in zip(plan.windows, predictions, strict=True):
        fusion.add(window, prediction)
    return fusion.result()


def random_predictions(plan, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn((1, len(window.frames), 2, 2, 1), generator=generator, dtype=dtype)
        for window in plan.windows
    ]


@given(plans())
@settings(max_examples=60, deadline=None)
def test_a_window_independent_denoiser_gives_the_unwindowed_result(case):
    num_latent_frames, plan = case
    latents = torch.randn((1, num_latent_frames, 2, 2, 3), generator=torch.manual_seed(0))
    predictions = [latents[:, list(window.frames)].sin() for window in plan.windows]
    torch.testing.assert_close(fuse(plan, predictions, num_latent_frames), latents.sin())


@given(plans(max_latent_frames=24))
@settings(max_examples=40, deadline=None)
def test_fusion_minimises_equation_8(case):
    """Oracle: a dense least-squares solve of Eq. 8, with weights normalised per path and frame."""
    num_latent_frames, plan = case
    predictions = random_predictions(plan)
    rows, targets = [], []
    for path in plan.paths:
        totals = torch.zeros(num_latent_frames, dtype=torch.float64)
        for window in path.windows:
            totals.index_add_(0, torch.tensor(window.frames), torch.tensor(window.weights).double())
        for window in path.windows:
            prediction = predictions[window.index]
            for position, frame in enumerate(window.frames):
                root = (path.share * window.weights[position] / totals[frame]).sqrt()
                rows.append(root * torch.eye(num_latent_frames, dtype=torch.float64)[frame])
                targets.append(root * prediction[0, position].flatten())
    solution = torch.linalg.lstsq(torch.stack(rows), torch.stack(targets), driver="gelsd").solution
    fused = fuse(plan, predictions, num_latent_frames, torch.float64)
    torch.testing.assert_close(fused.flatten(2)[0].flatten(1), solution, rtol=0, atol=1e-9)


def test_weights_and_shares_by_hand():
    plan = plan_of(
        ("global", 0.25, [window(0, [0, 1, 1], [1, 1, 0], "global")]),
        ("local", 0.75, [window(1, [0, 1], [1, 3]), window(2, [0, 1], [1, 1])]),
    )
    values = [[8.0, 4.0, 999.0], [1.0, 2.0], [3.0, 6.0]]
    predictions = [torch.tensor(value)[None, :, None, None, None] for value in values]
    fused = fuse(plan, predictions, 2)
    expected = [0.25 * 8 + 0.75 * (1 + 3) / 2, 0.25 * 4 + 0.75 * (3 * 2 + 6) / 4]
    assert fused.flatten().tolist() == expected


def test_one_plain_window_comes_back_bit_for_bit():
    plan = plan_of(("local", 1.0, local_windows(13, 13, 6, 2)))
    prediction = torch.randn((1, 13, 16, 8, 12), generator=torch.manual_seed(0)) * 1e-3
    assert torch.equal(fuse(plan, [prediction], 13), prediction)


def test_weights_are_summed_once_however_many_bands_are_taken(monkeypatch):
    summed = []

    def counted(path, num_latent_frames):
        summed.append(path.name)
        return frame_weights(path, num_latent_frames)

    monkeypatch.setattr(fusion_module, "frame_weights", counted)
    far, near = global_windows(60, 6), local_windows(60, 6, 3, 1, first_index=10)
    plan = plan_of(("global", 0.25, far), ("local", 0.75, near))
    predictions = random_predictions(plan, dtype=torch.float32)
    whole = fuse(plan, predictions, 60)
    num_summed = len(summed)
    fusion = Fusion(plan, whole.shape)
    bands = []
    for window, prediction in zip(plan.windows, predictions, strict=True):
        fusion.add(window, prediction)
        while len(bands) + 1 <= fusion.num_final:
            bands.append(fusion.result(slice(len(bands), len(bands) + 1)).clone())
    assert torch.equal(torch.cat(bands, dim=1), whole)
    assert len(bands) == 60
    assert len(summed) == 2 * num_summed


def test_sums_are_float32_for_half_precision_predictions():
    plan = plan_of(("local", 1.0, local_windows(20, 8, 2, 1)))
    predictions = random_predictions(plan, dtype=torch.float32)
    half = [prediction.bfloat16() for prediction in predictions]
    fused = fuse(plan, half, 20)
    assert fused.dtype == torch.float32
    assert torch.equal(fused, fuse(plan, [prediction.float() for prediction in half], 20))


def test_predictions_are_left_as_they_are():
    plan = plan_of(("local", 1.0, local_windows(4, 4, 2, 0)))
    (prediction,) = random_predictions(plan, dtype=torch.float32)
    before = prediction.clone()
    fuse(plan, [prediction], 4).zero_()
    assert torch.equal(prediction, before)


def test_an_uncovered_frame_is_named_before_any_prediction():
    holes = [window(1, [0, 1]), window(2, [2, 3], [1.0, 0.0]), window(3, [4, 5])]
    plan = plan_of(("global", 0.5, global_windows(6, 6)), ("local", 0.5, holes))
    with pytest.raises(
        ValueError, match="Latent frame 3 has no weight in the local path of step 7"
    ):
        Fusion(plan, (1, 6, 1, 1, 1))


def test_a_path_without_share_counts_for_nothing_and_may_have_holes():
    plan = plan_of(
        ("global", 0.0, [window(0, [0], [1.0], "global")]), ("local", 1.0, [window(1, [0, 1])])
    )
    broken = torch.full((1, 1, 1, 1, 1), torch.nan)
    fused = fuse(plan, [broken, torch.ones((1, 2, 1, 1, 1))], 2)
    assert torch.equal(fused, torch.ones((1, 2, 1, 1, 1)))


@pytest.mark.parametrize("shares", [(0.5, 0.6), (1.5, -0.5), (0.0, 0.0)])
def test_shares_must_make_an_average(shares):
    windows = [window(0, [0], None, "global")], [window(1, [0])]
    plan = plan_of(("global", shares[0], windows[0]), ("local", shares[1], windows[1]))
    with pytest.raises(ValueError, match="must be 0 or more and sum to 1; got global"):
        Fusion(plan, (1, 1, 1, 1, 1))


def test_order_and_completeness_are_asserted():
    plan = plan_of(("local", 1.0, local_windows(6, 4, 2, 0)))
    first, second = plan.windows
    prediction = torch.zeros((1, 4, 1, 1, 1))
    fusion = Fusion(plan, (1, 6, 1, 1, 1))
    with pytest.raises(AssertionError, match="got window 1 in place of 0"):
        fusion.add(second, prediction)
    fusion = Fusion(plan, (1, 6, 1, 1, 1))
    fusion.add(first, prediction)
    with pytest.raises(AssertionError, match="window 1 is missing"):
        fusion.result()
    fusion.add(second, prediction)
    with pytest.raises(AssertionError, match="after the last"):
        fusion.add(second, prediction)
