"""Methods and ablations by name."""

from __future__ import annotations

import pytest

from glc_ray.comparison.variants import ABLATION, parse_variant, parse_variants
from glc_ray.config import METHODS
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError

OFF = {
    "glc-glcd": ("global_path", "local_path"),
    "glc-global_path": ("global_path",),
    "glc-local_path": ("local_path",),
    "glc-noise_reinit": ("noise_reinit",),
    "glc-abam": ("abam",),
    "glc-vmcr": ("vmcr",),
}


def spec(name: str):
    variant = parse_variant(name)
    return load_pipeline("toyworld", [("method", variant.method), *variant.settings])


@pytest.mark.parametrize("name", OFF)
def test_a_part_that_is_left_out_is_off_and_no_other(name: str) -> None:
    found, whole = spec(name), spec("glc")
    for part in ("global_path", "local_path", "noise_reinit", "abam", "vmcr"):
        value = getattr(found.glc, part)
        is_on = value if isinstance(value, bool) else value.enabled
        assert is_on == (part not in OFF[name])
    assert found.glc.gamma == whole.glc.gamma


def test_presets_parts_and_keys_together() -> None:
    found = spec("glc:annealed-abam-vmcr+stride=3+noise_reinit.order=2")
    assert (found.method, found.glc.gamma.preset, found.glc.stride) == ("glc", "annealed", 3)
    assert not found.glc.abam.enabled
    assert not found.glc.vmcr.enabled
    assert found.glc.noise_reinit.order == 2


def test_exponents_are_no_further_keys() -> None:
    assert spec("glc+vmcr.weight=1.0e+2").glc.vmcr.weight == 100
    assert spec("freenoise+stride=2").freenoise.stride == 2


def test_the_ablation_has_every_method_and_every_part() -> None:
    variants = parse_variants(["ablation"])
    assert tuple(variant.name for variant in variants) == ABLATION
    assert {variant.method for variant in variants} == set(METHODS)
    assert set(OFF) < set(ABLATION)
    assert len({variant.slug for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (
            "glx",
            "--methods glx: unknown method 'glx'; the known ones are glc, direct, gen_l_video, "
            "freenoise, freelong, and of glc those with another preset of gamma, such as "
            "glc:annealed, or without a part, such as glc-vmcr; did you mean glc?",
        ),
        (
            "glc:anealed",
            "--methods glc:anealed: unknown preset of gamma 'anealed'; the known ones are paper, "
            "annealed; did you mean annealed?",
        ),
        (
            "glc-vcmr",
            "--methods glc-vcmr: unknown part of glc 'vcmr'; the known ones are glcd, "
            "global_path, local_path, noise_reinit, abam, vmcr; did you mean vmcr?",
        ),
        (
            "direct-vmcr",
            "--methods direct-vmcr: presets (:) and parts (-) are glc's; a key of direct is set by "
            "+KEY=VALUE, as in gen_l_video+stride=2",
        ),
        (
            "glc+stride",
            "--methods glc+stride: expected +KEY=VALUE with a key of glc, not +stride; for example "
            "glc+stride=3",
        ),
        ("glc,direct,glc", "--methods glc: is there before, as glc; leave one out"),
        (
            " ,",
            "--methods: names nothing; give methods such as glc,direct of glc, direct, "
            "gen_l_video, freenoise, freelong, or ablations such as glc-glcd, glc-global_path, "
            "glc-local_path, glc-noise_reinit, glc-abam, glc-vmcr",
        ),
    ],
)
def test_mistakes(names: str, text: str) -> None:
    with pytest.raises(UserError) as error:
        parse_variants(names.split(","))
    assert str(error.value) == text
