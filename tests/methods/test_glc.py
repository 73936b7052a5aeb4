"""GLC: what each switch does to noise, plan and update."""

from typing import get_args

import pytest
import torch

from glc_ray.config import GammaSpec, GLCSpec
from glc_ray.core.gamma import GAMMA_PRESETS, gamma
from glc_ray.core.noise import SeededNoise, reinitialise
from glc_ray.core.vmcr import VMCRWeights, correct
from glc_ray.methods.direct import Direct
from glc_ray.methods.glc import GLC
from glc_ray.protocols import Method, ModelFacts, StepResult, UserError

NATIVE = {"global_path": False, "noise_reinit": False, "vmcr": False, "abam": False}


def glc(num_latent_frames=37, window_size=13, seed=42, max_clip_frames=None, **options):
    return GLC(
        num_latent_frames=num_latent_frames,
        window_size=window_size,
        seed=seed,
        options=GLCSpec(**options),
        max_clip_frames=max_clip_frames,
    )


def step_result(num_frames, signal_scale=0.5):
    generator = torch.Generator().manual_seed(0)
    prev, x0 = (torch.randn((1, num_frames, 2, 3, 4), generator=generator) for _ in range(2))
    return StepResult(prev_sample=prev, pred_original_sample=x0, signal_scale=signal_scale)


def test_plan_has_both_paths_in_index_order():
    plan = glc().plan(3, 901)
    assert (plan.step_index, plan.timestep) == (3, 901)
    assert [path.name for path in plan.paths] == ["global", "local"]
    assert [window.index for window in plan.windows] == list(range(len(plan.windows)))
    assert len(plan.paths[0].windows) == 3
    assert all(window.path == path.name for path in plan.paths for window in path.windows)
    assert all(len(window.frames) == 13 for window in plan.windows)


@pytest.mark.parametrize("preset", GAMMA_PRESETS)
@pytest.mark.parametrize("timestep", [999, 500, 1])
def test_shares_are_gamma_and_the_rest(preset, timestep):
    gamma0, beta = GAMMA_PRESETS[preset]
    plan = glc(gamma={"preset": preset}).plan(0, timestep)
    expected = gamma(timestep, gamma0=gamma0, beta=beta)
    assert [path.share for path in plan.paths] == [expected, 1 - expected]


def test_plan_is_a_function_of_seed_and_step():
    plans = [glc(seed=1).plan(step, 500) for step in range(20)]
    assert plans == [glc(seed=1).plan(step, 500) for step in range(20)]
    assert plans != [glc(seed=2).plan(step, 500) for step in range(20)]
    assert len({plan.paths[1].windows for plan in plans}) > 1


def test_default_stride_is_half_a_window():
    assert (glc(window_size=13).stride, glc(window_size=7).stride) == (6, 3)
    assert (glc(window_size=1).stride, glc(window_size=13, stride=4).stride) == (1, 4)


@pytest.mark.parametrize(("off", "left"), [("global_path", "local"), ("local_path", "global")])
def test_with_one_path_off_the_other_has_it_all(off, left):
    (path,) = glc(**{off: False}).plan(0, 999).paths
    assert (path.name, path.share, path.windows[0].index) == (left, 1.0, 0)


def test_without_paths_it_is_direct_sampling_with_noise_and_refinement():
    off = {"global_path": False, "local_path": False}
    whole = glc(**off)
    facts = ModelFacts(13, 4, 8, 2, 32, 48)
    direct = Direct(num_latent_frames=37, facts=facts)
    assert whole.plan(3, 901) == direct.plan(3, 901)
    assert whole.requires == direct.requires
    assert whole.reach == glc().reach > 0
    shape = (1, 37, 2, 4, 6)
    noises = [method.initial_noise(shape, SeededNoise(5)) for method in (whole, glc())]
    assert torch.equal(*noises)
    with pytest.raises(ValueError, match="one forward would span 37 latent frames"):
        glc(**off, max_clip_frames=36)


@pytest.mark.parametrize(("gamma0", "left"), [(0.0, "local"), (1.0, "global")])
def test_a_path_without_share_is_not_planned(gamma0, left):
    (path,) = glc(gamma={"gamma0": gamma0, "beta": 0.0}).plan(0, 999).paths
    assert (path.name, path.share, path.windows[0].index) == (left, 1.0, 0)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"num_latent_frames": 12}, "num_latent_frames is 12: it must be at least"),
        ({"stride": 14}, "glc.stride = 14: must be between 1 and 13, the model's window"),
        (
            {"noise_reinit": {"chunk": 14}},
            "glc.noise_reinit.chunk = 14: must be between 1 and 13, the model's window",
        ),
    ],
)
def test_nonsense_is_refused_before_any_work(arguments, text):
    with pytest.raises((UserError, ValueError), match=text):
        glc(**arguments)


def test_native_length_without_features_is_plain_sampling():
    method = glc(num_latent_frames=13, **NATIVE)
    for step_index in range(10):
        (window,) = method.plan(step_index, 999 - step_index).windows
        assert window.frames == tuple(range(13))
        assert window.weights == (1.0,) * 13
    result = step_result(13)
    assert method.update(result) is result.prev_sample
    noise = method.initial_noise((1, 13, 16, 8, 12), SeededNoise(5))
    plain = torch.randn((1, 13, 16, 8, 12), generator=torch.Generator().manual_seed(5))
    assert torch.equal(noise, plain)


def test_noise_is_reinitialised_as_the_paper_does_by_default():
    shape = (1, 37, 2, 4, 6)
    noise = glc().initial_noise(shape, SeededNoise(5))
    expected = reinitialise(shape, 13, SeededNoise(5), chunk_size=4)
    assert torch.equal(noise, expected)


def test_noise_is_reinitialised_with_the_options():
    shape = (1, 37, 2, 4, 6)
    method = glc(
        noise_reinit={"chunk": 2, "order": 3, "spatial_cutoff": 0.6, "temporal_cutoff": 0.4}
    )
    noise = method.initial_noise(shape, SeededNoise(5))
    expected = reinitialise(
        shape, 13, SeededNoise(5), chunk_size=2, order=3, spatial_cutoff=0.6, temporal_cutoff=0.4
    )
    assert torch.equal(noise, expected)


def test_default_chunk_fits_into_a_short_window():
    shape = (1, 7, 2, 4, 6)
    assert glc(7, 3).initial_noise(shape, SeededNoise(5)).shape == shape


def test_update_refines_with_the_options():
    result = step_result(9)
    method = glc(vmcr={"weight": 0.1, "frequency": 0.5, "mse": 0.3, "phase": 0.7})
    expected = correct(
        result.prev_sample,
        result.pred_original_sample,
        0.5,
        step_size=0.1,
        weights=VMCRWeights(frequency=0.5, mse=0.3, phase=0.7),
    )
    assert torch.equal(method.update(result), expected)
    assert not torch.equal(expected, result.prev_sample)


def test_it_is_a_method():
    method: Method = glc()
    assert method.requires == {"anchor_attention"}
    assert glc(abam=False).requires == frozenset()


def test_every_preset_of_the_specification_is_known():
    presets = get_args(GammaSpec.model_fields["preset"].annotation)
    assert set(presets) == set(GAMMA_PRESETS)
