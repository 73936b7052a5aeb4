"""The specification: precedence, errors that help, and a hash of just what determines the bits."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from glc_ray.config import VideoJob, content_hash
from glc_ray.pipeline_file import load_pipeline, parse_assignment, pipeline_names
from glc_ray.protocols import UserError


def message(name: str, *overrides: tuple[str, object]) -> str:
    with pytest.raises(UserError) as error:
        load_pipeline(name, overrides)
    return str(error.value)


@pytest.mark.parametrize("name", pipeline_names())
def test_every_shipped_pipeline_is_valid(name: str) -> None:
    assert load_pipeline(name).name == name


def test_later_overrides_win() -> None:
    spec = load_pipeline("toyworld", [("sampling.num_steps", 3), ("sampling.num_steps", 4)])
    assert spec.sampling.num_steps == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("glc.vmcr=false", ("glc.vmcr", False)),
        ("sampling.negative_prompt=a=b", ("sampling.negative_prompt", "a=b")),
        ("glc.vmcr.weight=2e-5", ("glc.vmcr.weight", "2e-5")),
        ("glc.stride=", ("glc.stride", None)),
    ],
)
def test_assignments_are_read_as_yaml(text: str, expected: tuple[str, object]) -> None:
    assert parse_assignment(text) == expected


def test_a_number_that_yaml_takes_for_text_is_a_number_all_the_same() -> None:
    spec = load_pipeline("toyworld", [parse_assignment("glc.vmcr.weight=3e-5")])
    assert spec.glc.vmcr.weight == 3e-5


def test_unknown_key_names_the_allowed_ones_and_the_nearest() -> None:
    text = message("toyworld", ("glc.gama.preset", "paper"))
    assert text.startswith("pipeline toyworld: unknown key glc.gama; allowed here: ")
    assert text.endswith("; did you mean gamma?")


def test_wrong_value_names_key_value_and_what_is_allowed() -> None:
    assert message("toyworld", ("glc.gamma.preset", "steep")) == (
        "pipeline toyworld: glc.gamma.preset = 'steep' is not allowed: input should be 'paper' or "
        "'annealed' (paper: 0.005, 0.0005 as printed; annealed: beta 0.005, strong early and gone "
        "late)"
    )


def test_unknown_method_names_the_known_ones() -> None:
    assert message("toyworld", ("method", "fifo")) == (
        "pipeline toyworld: method = 'fifo' is not allowed: input should be 'glc', 'direct', "
        "'gen_l_video', 'freenoise' or 'freelong' (The long-video method)"
    )


def test_unknown_pipeline_names_the_known_ones() -> None:
    assert {"cogvideox-2b", "toyworld"} <= set(pipeline_names())
    assert message("toyword") == (
        f"--pipeline toyword: unknown pipeline; the known ones are {', '.join(pipeline_names())}; "
        "or give the path of a .yaml file"
    )


def test_missing_pipeline_file() -> None:
    assert message("./nowhere.yaml") == (
        "--pipeline ./nowhere.yaml: no such file; write one or use a known name"
    )


def test_a_pipeline_file_that_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = f"{'x' * 300}.yaml"
    assert message(long) == (
        f"--pipeline {long}: cannot be read (File name too long); give the path of a .yaml file "
        "that you may read, or use a known name"
    )
    file = tmp_path / "mine.yaml"
    file.write_text("video: {num_frames: 49}\n")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(file))

    # Root may read whatever its permissions are.
    monkeypatch.setattr(Path, "open", refuse)
    assert message(str(file)).startswith(f"--pipeline {file}: cannot be read (Permission denied)")


def test_pipeline_file_without_a_model(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("video: {num_frames: 49}\n")
    expected = "pipeline mine: the key model is missing; add it"
    assert message(str(file)) == expected


def test_key_below_a_value() -> None:
    text = message("toyworld", ("video.fps.rate", 3))
    assert text == "--set video.fps.rate: fps holds the value 8, not further keys"


def test_assignment_without_a_value() -> None:
    with pytest.raises(UserError, match=r"--set glc.vmcr: expected key.path=value, for example"):
        parse_assignment("glc.vmcr")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        (
            "resources.denoisers.custom.GPU",
            1,
            "resources.denoisers.custom = {'GPU': 1} is not allowed: nodes are not started with "
            "GPU as something else; use num_gpus (What else each takes, such as {denoiser: 1}: "
            "only nodes that were started with it have it)",
        ),
        (
            "resources.coordinators.custom.role",
            0,
            "resources.coordinators.custom.role = 0 is not allowed: input should be greater than 0",
        ),
        (
            "resources.decoders.custom.role",
            1.5,
            "resources.decoders.custom = {'role': 1.5} is not allowed: it takes shares of one, or "
            "whole numbers (What else each takes, such as {denoiser: 1}: only nodes that were "
            "started with it have it)",
        ),
    ],
)
def test_custom_resources(key: str, value: object, expected: str) -> None:
    assert message("toyworld", (key, value)) == f"pipeline toyworld: {expected}"


def job(*overrides: tuple[str, object], seed: int = 0) -> VideoJob:
    return VideoJob(prompt="x", seed=seed, pipeline=load_pipeline("toyworld", overrides))


def test_hash_ignores_where_the_work_is_done() -> None:
    own = {"count": 7, "num_cpus": 2, "num_gpus": 0.5, "custom": {"denoiser": 1}}
    resources = ("resources.denoisers", own)
    labels = (("name", "other"), ("description", "other"), ("prompt", "other"))
    assert job(resources, *labels).specification_hash == job().specification_hash


@pytest.mark.parametrize(
    "override",
    [
        ("denoise.batch_size", 2),
        ("denoise.threads", 2),
        ("glc.vmcr", False),
        ("video.fps", 9),
        ("encode.crf", 19),
    ],
)
def test_hash_changes_with_whatever_may_change_the_bits(override: tuple[str, object]) -> None:
    assert job(override).specification_hash != job().specification_hash


@pytest.mark.parametrize("name", pipeline_names())
def test_hash_survives_the_way_through_json(name: str, tmp_path: Path) -> None:
    """Stages read the job from JSON; defaults must not differ from what is read back."""
    bare = tmp_path / "bare.yaml"
    bare.write_text("model: {path: package:toyworld}\n")
    for pipeline in (load_pipeline(name), load_pipeline(str(bare))):
        made = VideoJob(prompt="x", pipeline=pipeline)
        again = VideoJob.model_validate_json(made.model_dump_json())
        assert again.specification_hash == made.specification_hash


def test_hash_changes_with_seed() -> None:
    assert job(seed=1).specification_hash != job().specification_hash


def test_hash_ignores_where_the_model_lies_but_not_which_it_is() -> None:
    there = [("model.path", "/models/there"), ("model.revision", "abc")]
    assert job(*there).specification_hash == job().specification_hash
    other = job().model_copy(update={"model_identity": "other"})
    assert other.specification_hash != job().specification_hash


@pytest.mark.parametrize("value", ["inf", "nan", "-inf"])
def test_numbers_are_finite(value: str) -> None:
    key = "sampling.guidance_scale"
    assert f"{key} = {value} is not allowed: input should be" in message(
        "toyworld", (key, float(value))
    )


def test_a_value_in_place_of_a_section_names_its_keys() -> None:
    assert message("toyworld", ("glc.gamma", "paper")) == (
        "pipeline toyworld: glc.gamma = 'paper' is not allowed: glc.gamma holds further keys: "
        "preset, gamma0, beta; for example --set glc.gamma.preset=..."
    )


SWITCHES = {
    "noise_reinit": "enabled, chunk, order, spatial_cutoff, temporal_cutoff",
    "abam": "enabled, weight, literal, cache",
    "vmcr": "enabled, weight, frequency, mse, phase",
}


@pytest.mark.parametrize("switch", SWITCHES)
@pytest.mark.parametrize("value", [3, "on", None, []])
def test_a_value_in_place_of_a_switch_names_true_false_and_its_keys(
    switch: str, value: object
) -> None:
    assert message("toyworld", (f"glc.{switch}", value)) == (
        f"pipeline toyworld: glc.{switch} = {value!r} is not allowed: glc.{switch} is true, false "
        f"or further keys: {SWITCHES[switch]}; for example --set glc.{switch}=false"
    )


def test_a_key_below_a_switch_leaves_it_as_it_was() -> None:
    off = load_pipeline("toyworld", [("glc.vmcr", False), ("glc.vmcr.weight", 1)]).glc.vmcr
    assert (off.enabled, off.weight) == (False, 1)
    on = load_pipeline("toyworld", [("glc.vmcr", True), ("glc.vmcr.weight", 1)]).glc.vmcr
    assert (on.enabled, on.weight) == (True, 1)


def test_a_key_below_a_true_that_is_no_switch() -> None:
    text = message("toyworld", ("optimize.compile", True), ("optimize.compile.mode", "fast"))
    assert text == "--set optimize.compile.mode: compile holds the value True, not further keys"


@pytest.mark.parametrize(
    ("prompts", "text"),
    [
        (
            "0: a red ball",
            "prompts = '0: a red ball' is not allowed: prompts is a list; for example "
            "[{at_frame: ..., text: ...}, {at_frame: ..., text: ...}]",
        ),
        (
            ["0: a red ball"],
            "prompts[0] = '0: a red ball' is not allowed: prompts[0] holds further keys: at_frame, "
            "text; for example {at_frame: ..., text: ...}",
        ),
        (
            [{"at_frame": 0, "text": "x"}, {"at_frame": -1, "text": "y"}],
            "prompts[1].at_frame = -1 is not allowed: input should be greater than or equal to 0 "
            "(First pixel frame; 0 for the first prompt)",
        ),
        ([{"at_frame": 0}], "the key prompts[0].text is missing; add it"),
        (
            [{"at_frame": 0, "text": "x", "tekst": "y"}],
            "unknown key prompts[0].tekst; allowed here: at_frame, text; did you mean text?",
        ),
    ],
)
def test_errors_within_a_list_name_the_index(prompts: object, text: str) -> None:
    assert message("toyworld", ("prompts", prompts)) == f"pipeline toyworld: {text}"


@pytest.mark.parametrize(
    ("key", "close"),
    [
        ("vmcr", "glc.vmcr"),
        ("num_frames", "video.num_frames"),
        ("steps", "sampling.num_steps"),
        ("guidence_scale", "sampling.guidance_scale"),
        ("stride", "glc.stride or gen_l_video.stride or freenoise.stride"),
        ("vidoe", "video"),
    ],
)
def test_a_key_without_its_section_names_the_whole_path(key: str, close: str) -> None:
    text = message("toyworld", (key, 1))
    assert text.startswith(f"pipeline toyworld: unknown key {key}; allowed here: name, ")
    assert text.endswith(f"; did you mean {close}?")


def test_yaml_without_a_space_after_the_colon() -> None:
    assert message("toyworld", parse_assignment("glc.noise_reinit={chunk:4}")) == (
        "pipeline toyworld: unknown key glc.noise_reinit.chunk:4; YAML needs a space after the "
        "colon: chunk: 4"
    )
    assert message("toyworld", ("video", "num_frames:49")).endswith(
        "; for example --set video.num_frames=...; YAML needs a space after the colon: "
        "num_frames: 49"
    )


@pytest.mark.parametrize("key", ["glc.", ".glc", "glc..vmcr", "glc. .vmcr", "."])
def test_a_key_with_an_empty_part(key: str) -> None:
    text = message("toyworld", (key, 1))
    assert text.startswith(f"--set {key}=1: the key {key!r} has an empty part; write ")


def test_a_value_of_several_kinds_gets_one_line() -> None:
    options = {"steps_offset": [1], "timestep_spacing": None}
    lines = message("toyworld", ("sampling.scheduler_options", options)).splitlines()
    meaning = "(Settings of the noise scheduler in place of the model's, by diffusers' names)"
    assert lines == [
        "pipeline toyworld: sampling.scheduler_options.steps_offset = [1] is not allowed: it takes "
        f"true or false, a number or a text {meaning}",
        "pipeline toyworld: sampling.scheduler_options.timestep_spacing = None is not allowed: it "
        f"takes true or false, a number or a text {meaning}",
    ]


def test_a_share_above_1() -> None:
    assert message("toyworld", ("glc.gamma.gamma0", 1.5)) == (
        "pipeline toyworld: glc.gamma.gamma0 = 1.5 is not allowed: input should be less than or "
        "equal to 1 (In place of the preset's)"
    )


def test_options_of_a_method_that_is_not_used_get_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    load_pipeline("toyworld", [("glc.stride", 3), ("gen_l_video.stride", 3)])
    assert caplog.messages == [
        "--set gen_l_video.stride: has no effect, since the method is glc; leave it out, or use "
        "--method gen_l_video"
    ]
    caplog.clear()
    load_pipeline("toyworld", [("gen_l_video.stride", 3), ("method", "gen_l_video")])
    assert caplog.messages == []


def test_a_frame_as_a_key_is_an_unknown_key() -> None:
    """YAML's ``- 0: a red ball`` reads as a mapping whose key is a number."""
    lines = message("toyworld", ("prompts", [{0: "a red ball"}])).splitlines()
    expected = "pipeline toyworld: unknown key prompts[0].0; allowed here: at_frame, text"
    assert lines[-1] == expected


def test_hash_is_the_same_in_every_process_and_release() -> None:
    """Pinned: a change of this value re-renders everybody's catalogs; raise FORMAT_VERSION."""
    assert content_hash({"b": [1, 2.5, "ü"], "a": None}) == (
        "3ca4eda1ebfd02e4296104981a1e65d4e87e99084ac993fafbc515a8f6a8ad84"
    )
