"""Requests that cannot be rendered, and the names of those that can."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from glc_ray.backbones import registry
from glc_ray.config import TimedPrompt, VideoJob
from glc_ray.job import (
    build_job,
    check_capabilities,
    video_name,
    warn_of_mixed_prompts,
    warn_of_unknown_words,
)
from glc_ray.methods import registry as methods
from glc_ray.pipeline_file import load_pipeline
from glc_ray.prompts import PromptLike
from glc_ray.protocols import Capability, UserError
from tests.tiny_wan import CLIP, TinyWan

TIMELINE = [(0, "a red ball at day"), (73, "a red ball at night")]


def message(
    *overrides: tuple[str, object], prompt: PromptLike | None = "a red ball", seed: int = 0
) -> str:
    with pytest.raises(UserError) as error:
        build_job(load_pipeline("toyworld", overrides), prompt, seed)
    return str(error.value)


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_empty_prompt(prompt: str) -> None:
    assert message(prompt=prompt) == (
        f"--prompt {prompt!r}: the prompt is empty; say what the video shows, for example "
        '--prompt "a red ball bounces over the meadow at day"'
    )


def test_pipeline_without_a_prompt_of_its_own() -> None:
    assert message(("prompt", None), prompt=None) == (
        "pipeline toyworld has no prompt of its own; give one, for example "
        '--prompt "a red ball bounces over the meadow at day"'
    )


def test_frames_that_are_not_4k_plus_1_name_the_nearest() -> None:
    assert message(("video.num_frames", 144)) == (
        "--num-frames 144: must be 4k+1 for toyworld; the nearest are 141 and 145"
    )


def test_video_shorter_than_a_native_clip() -> None:
    assert message(("video.num_frames", 21)) == (
        "--num-frames 21: shorter than the model's native clip; toyworld renders 25 frames or more"
    )


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            [("glc.stride", 8)],
            "glc.stride = 8: must be between 1 and 7, the model's window in latent frames, or "
            "windows would leave frames uncovered; leave it out for half a window",
        ),
        (
            [("glc.noise_reinit.chunk", 9)],
            "glc.noise_reinit.chunk = 9: must be between 1 and 7, the model's window in latent "
            "frames; leave it out for 4",
        ),
    ],
)
def test_options_that_do_not_fit_the_model(overrides: list, text: str) -> None:
    assert message(*overrides) == text


def test_tiling_that_the_vae_cannot_do() -> None:
    assert message(("decode.tiling", "on")).startswith(
        "decode.tiling = 'on': tiles of 32 x 48 pixels (half of the VAE's sample_height and "
        "sample_width) do not make up a picture for "
    )


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_that_cannot_be(seed: int) -> None:
    assert message(seed=seed) == (
        f"--seed {seed}: must be a whole number from 0 to 9223372036854775807; leave it out for 0"
    )


def test_folder_without_a_model(tmp_path: Path) -> None:
    assert message(("model.path", str(tmp_path))) == (
        f"model.path = '{tmp_path}': {tmp_path} has no model_index.json that can be read; give "
        "a folder in diffusers' format, a hub id such as THUDM/CogVideoX-2b, or package:toyworld"
    )


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder", "tokenizer", "scheduler"])
def test_folder_with_a_missing_part(
    tiny_model: Callable[[str], Path], tmp_path: Path, part: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("sincos"), folder)
    shutil.rmtree(folder / part)
    text = message(("model.path", str(folder)))
    assert text.startswith(f"model.path = '{folder}': the part '{part}' is missing: no *.")
    assert text.endswith("; copy or download it again")


def test_model_of_another_kind(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("sincos"), folder)
    index = folder / "model_index.json"
    index.write_text(index.read_text().replace("CogVideoXPipeline", "WanPipeline"))
    assert message(("model.path", str(folder))) == (
        f"model.path = '{folder}': a model of diffusers' WanPipeline, but model.backbone = "
        "'cogvideox' loads CogVideoXPipeline; give a model of that kind"
    )


def test_relative_model_folder_is_found_from_everywhere(
    tiny_model: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_model("sincos"), tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    made = build_job(load_pipeline("toyworld", [("model.path", "mine")]), "x", 0)
    assert made.pipeline.model.path == str(tmp_path / "mine")


def test_hub_model_that_is_not_here_and_cannot_be_fetched() -> None:
    assert message(("model.path", "nobody/nothing")) == (
        "model.path = 'nobody/nothing': not downloaded yet, and the hub cannot be reached from "
        "here; download it where there is network (hf download nobody/nothing), or give a folder "
        "that has it: --set model.path=FOLDER"
    )


def test_what_cannot_be_a_hub_id() -> None:
    text = message(("model.path", "no/such/model"))
    assert text.startswith("model.path = 'no/such/model' is neither a folder here nor a model")
    assert text.endswith("give a folder in diffusers' format, a hub id, or package:toyworld")


def test_configuration_files_are_a_job_to_plan_but_not_to_render(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("sincos"), folder, ignore=shutil.ignore_patterns("*.safetensors"))
    spec = load_pipeline("toyworld", [("model.path", str(folder))])
    assert build_job(spec, "x", 0, weights=False).pipeline.model.path == str(folder)
    text = message(("model.path", str(folder)))
    assert text.startswith(f"model.path = '{folder}': the part 'text_encoder' is missing: no *.saf")


def test_model_of_an_unsupported_kind(tiny_model: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("1.5"), folder)
    config = folder / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"ofs_embed_dim": null', '"ofs_embed_dim": 8'))
    assert message(("model.path", str(folder))) == (
        f"model.path = '{folder}': an image-to-video model (ofs_embed_dim = 8 in "
        "transformer/config.json), which is not supported; use a text-to-video model such as "
        "THUDM/CogVideoX-5b or THUDM/CogVideoX1.5-5B"
    )


@pytest.mark.parametrize(
    ("overrides", "capability", "text"),
    [
        (
            [],
            "anchor_attention",
            "glc.abam: toyworld has no anchor attention; use --set glc.abam=false",
        ),
        (
            [("method", "direct")],
            "long_clips",
            "--method direct: needs one forward over the whole video, and toyworld has positions "
            "for its native clip only; use glc, gen_l_video or freenoise (level prediction)",
        ),
        (
            [("method", "freelong")],
            "spectral_attention",
            "--method freelong: needs attention that toyworld does not give; use glc, gen_l_video "
            "or freenoise",
        ),
        (
            [("method", "freenoise"), ("freenoise.level", "attention")],
            "windowed_attention",
            "freenoise.level = 'attention': toyworld adds positions at its input, so windows "
            "cannot have their own within attention; use auto or prediction",
        ),
    ],
)
def test_what_the_model_cannot_do(
    overrides: list[tuple[str, object]], capability: Capability, text: str
) -> None:
    """The method of a real job says what it requires; the model is told to be unable."""
    spec = load_pipeline("toyworld", overrides)
    facts = registry.facts(spec.model)
    method = methods.create(VideoJob(prompt="x", pipeline=spec), facts)
    assert capability in method.requires
    unable = replace(facts, capabilities=method.requires - {capability})
    with pytest.raises(UserError) as error:
        check_capabilities(spec, method.requires, unable)
    assert str(error.value) == text


def test_a_switch_that_is_off_asks_nothing_of_the_model() -> None:
    spec = load_pipeline("toyworld", [("glc.abam", False)])
    facts = replace(registry.facts(spec.model), capabilities=frozenset())
    method = methods.create(VideoJob(prompt="x", pipeline=spec), facts)
    check_capabilities(spec, method.requires, facts)
    assert method.requires == frozenset()


def test_windows_within_attention_where_positions_are_at_the_input() -> None:
    text = message(("method", "freenoise"), ("freenoise.level", "attention"))
    assert text.startswith("freenoise.level = 'attention': toyworld adds positions at its input")


def job(prompt: PromptLike, *overrides: tuple[str, object]) -> VideoJob:
    return build_job(load_pipeline("toyworld", overrides), prompt, 0)


def test_a_timeline_is_kept_as_data_and_as_one_line_for_people() -> None:
    made = job(TIMELINE)
    assert [(prompt.at_frame, prompt.text) for prompt in made.timeline] == TIMELINE
    assert made.prompt == "0: a red ball at day | 73: a red ball at night"
    again = VideoJob.model_validate_json(made.model_dump_json())
    assert again == made
    assert again.specification_hash == made.specification_hash


def test_a_timeline_of_one_prompt_is_the_prompt() -> None:
    plain = job("a red ball")
    assert job([(0, " a red ball ")]) == plain
    assert plain.prompts == ()
    in_file = load_pipeline(
        "toyworld", [("prompt", None), ("prompts", [{"at_frame": 0, "text": "a red ball"}])]
    )
    assert build_job(in_file, None, 0).specification_hash == plain.specification_hash
    alone = plain.model_copy(update={"prompts": (TimedPrompt(at_frame=0, text="a red ball"),)})
    assert alone.specification_hash == plain.specification_hash


def test_other_frames_other_texts_and_other_transitions_are_other_videos() -> None:
    hashes = {
        made.specification_hash
        for made in (
            job("a red ball at day"),
            job(TIMELINE),
            job([TIMELINE[0], (72, TIMELINE[1][1])]),
            job([TIMELINE[0], (73, "a blue box at night")]),
            job([TIMELINE[0], (73, TIMELINE[0][1])]),
            job(TIMELINE, ("sampling.transition_frames", 0)),
            # The line for people does not stand for the timeline.
            job("0: a red ball at day | 73: a red ball at night"),
        )
    }
    assert len(hashes) == 7


def test_a_frame_beyond_the_video_is_found_before_the_model_is_looked_at() -> None:
    text = message(("model.path", "/nowhere"), prompt=[(0, "a"), (145, "b")])
    assert text.startswith("--prompt '145: b': the video has 145 frames, 0 to 144; ")


@pytest.mark.parametrize(
    ("prompt", "overrides", "warned"),
    [
        (TIMELINE, [], False),
        ("a red ball", [("method", "direct")], False),
        (TIMELINE, [("method", "direct")], True),
        (TIMELINE, [("method", "freelong")], True),
        (TIMELINE, [("method", "freenoise")], False),
        (TIMELINE, [("glc.local_path", False)], True),
        ([(frame, f"ball {frame}") for frame in range(0, 145, 12)], [], True),
    ],
)
def test_a_timeline_that_no_window_can_follow_gets_a_warning(
    prompt: PromptLike,
    overrides: list[tuple[str, object]],
    warned: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = job(prompt, *overrides)
    warn_of_mixed_prompts(made)
    expected = f"--method {made.pipeline.method}: every window spans several prompts, so every "
    assert (expected in caplog.text) == warned
    assert ("windows of 25 frames" in caplog.text) == warned


def test_unknown_words_of_every_prompt_of_a_timeline(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_unknown_words(job([(0, "a red zebra"), (73, "a zebra and a dragon")]))
    assert "toyworld does not know 'zebra', 'and', 'dragon'. The words" in caplog.text


def test_unknown_words_get_a_warning_that_lists_the_known_ones(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        warn_of_unknown_words(job("A red zebra, a red dragon over the meadow"))
    assert "toyworld does not know 'zebra', 'dragon'. The words that it knows: " in caplog.text
    assert " meadow " in caplog.text


def test_known_words_get_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_unknown_words(job("A red ball bounces over the meadow at day."))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [
        ("A red ball!", "a-red-ball"),
        ("../../etc/passwd", "etc-passwd"),
        ("ein roter Ball über der Wiese", "ein-roter-ball-über-der-wiese"),
        ("赤いボール", "赤いボール"),
        ("x" * 500, "x" * 60),
        ("...", ""),
    ],
)
def test_names_say_what_is_in_the_file_and_never_leave_the_folder(prompt: str, slug: str) -> None:
    made = job(prompt)
    suffix = made.specification_hash[:8]
    assert video_name(made) == (f"{slug}-{suffix}" if slug else suffix)


def test_the_name_of_a_timeline_begins_with_its_first_prompt() -> None:
    made = job(TIMELINE)
    suffix = made.specification_hash[:8]
    assert video_name(made) == f"0-a-red-ball-at-day-73-a-red-ball-at-night-{suffix}"


def test_another_model_under_the_same_path_is_another_video(
    tiny_model: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("sincos"), folder)
    spec = load_pipeline("toyworld", [("model.path", str(folder))])
    before = build_job(spec, "x", 0).specification_hash
    weights = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert build_job(spec, "x", 0).specification_hash != before


def test_guidance_that_the_model_was_not_made_for(tiny_wan: TinyWan) -> None:
    wan = (
        ("model.backbone", "wan"),
        ("model.path", str(tiny_wan("one"))),
        *CLIP.items(),
        ("video.num_frames", 9),
    )
    assert message(*wan, ("sampling.dynamic_guidance", True)) == (
        "sampling.dynamic_guidance = True: toyworld was not made for guidance that changes with "
        "the timestep; leave the key out"
    )
    assert message(*wan, ("sampling.guidance_scale_2", 3)) == (
        "sampling.guidance_scale_2 = 3: toyworld has one transformer; use sampling.guidance_scale"
    )


def test_second_guidance_of_a_model_with_one_transformer() -> None:
    assert message(("sampling.guidance_scale_2", 3.5)) == (
        "sampling.guidance_scale_2 = 3.5: toyworld has one transformer; use sampling.guidance_scale"
    )


def test_memory_options_are_checked_before_any_work() -> None:
    assert message(("optimize.group_offload", "block_level")).startswith(
        "optimize.group_offload = 'block_level': a GPU fetches weights from main memory"
    )
