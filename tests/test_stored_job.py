"""Stored latents, asked for in another way: what may differ, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from click.testing import CliRunner

from glc_ray import render
from glc_ray.config import VideoJob
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError
from glc_ray.render import main
from glc_ray.runtime.rows import video_id
from glc_ray.store.latents import read_header, save_latents
from glc_ray.store.output import Output
from glc_ray.stored_job import job_from_latents
from tests.conftest import write_tiny_pipeline

SHAPE = (1, 9, 4, 4, 6)


@pytest.fixture
def model(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model("sincos"), folder)
    return folder


@pytest.fixture
def made(model: Path, tmp_path: Path) -> VideoJob:
    return build_job(load_pipeline(str(write_tiny_pipeline(tmp_path, model))), "a red ball", 7)


@pytest.fixture
def latents(made: VideoJob, tmp_path: Path) -> Path:
    save_latents(Output(str(tmp_path)), "kept", torch.zeros(SHAPE), {"job": made.model_dump_json()})
    return tmp_path / "kept"


def refusal(latents: Path, *overrides: tuple[str, Any], **asked: Any) -> str:
    with pytest.raises(UserError) as error:
        job_from_latents(str(latents), overrides, **asked)
    assert str(error.value).startswith(
        tuple(f"--{name} " for name in asked) or f"--from-latents {latents}: "
    )
    return str(error.value)


def test_other_settings_of_decode_and_encode_are_another_file_of_the_same_latents(
    made: VideoJob, latents: Path
) -> None:
    again = job_from_latents(
        str(latents), [("encode.format", "png"), ("decode.segment", 2), ("video.fps", 12)]
    )
    assert again.latents_hash == made.latents_hash
    assert again.specification_hash != made.specification_hash
    assert (again.prompt, again.seed, again.pipeline.encode.format) == ("a red ball", 7, "png")


def test_what_is_so_already_may_be_said(made: VideoJob, latents: Path) -> None:
    same = [("video.num_frames", 33), ("glc.vmcr", True), ("sampling.num_steps", 3)]
    assert job_from_latents(str(latents), same, seed=7) == made


def test_what_would_change_the_latents_is_refused(latents: Path) -> None:
    end = "; set keys of decode, encode and resources, or video.fps, or render the video anew"
    assert refusal(latents, ("video.num_frames", 49)) == (
        f"--from-latents {latents}: video.num_frames = 49 would change the latents, which were "
        f"made with 33{end}"
    )
    assert refusal(latents, ("method", "direct")).endswith(f"which were made with 'glc'{end}")
    options = ("sampling.scheduler_options", {"rescale_betas_zero_snr": False})
    assert refusal(latents, options).endswith(f"which were made with {{}}{end}")


def test_another_prompt_pipeline_or_seed_is_refused(latents: Path) -> None:
    assert refusal(latents, prompt="a blue box") == (
        f"--prompt 'a blue box': --from-latents {latents} has its own; leave the prompt out, or "
        "render the video anew"
    )
    assert refusal(latents, pipeline="toyworld") == (
        f"--pipeline toyworld: --from-latents {latents} has its own; leave it out and --set single "
        "keys, or render the video anew"
    )
    assert refusal(latents, seed=0) == (
        f"--seed 0: --from-latents {latents} was made with 7; leave it out, or render the video "
        "anew"
    )


def test_the_command_line_refuses_what_was_typed_and_no_default(latents: Path) -> None:
    def said(*arguments: str) -> str:
        result = CliRunner().invoke(main, ["--from-latents", str(latents), *arguments])
        assert result.exit_code == 2
        return result.stderr.replace("\n", " ")

    assert f"error: --seed 0: --from-latents {latents} was made with 7" in said("--seed", "0")
    assert "error: --pipeline toyworld: --from-latents" in said("--pipeline", "toyworld")
    text = said("--num-frames", "49")
    assert f"error: --from-latents {latents}: --num-frames 49 would change the latents" in text


def test_a_model_that_lies_elsewhere_now(made: VideoJob, model: Path, latents: Path) -> None:
    elsewhere = model.rename(model.with_name("elsewhere"))
    with pytest.raises(UserError, match=r"model.path = '.*/model': .* has no model_index.json"):
        job_from_latents(str(latents), [])
    again = job_from_latents(str(latents), [("model.path", str(elsewhere))])
    assert again.pipeline.model.path == str(elsewhere)
    assert again.specification_hash == made.specification_hash


def test_a_relative_path_of_the_model_is_found_from_everywhere(
    model: Path, latents: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(model.parent)
    again = job_from_latents(str(latents), [("model.path", "model")])
    assert again.pipeline.model.path == str(model)


def test_another_model_at_the_same_place_is_refused(model: Path, latents: Path) -> None:
    weights = model / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert refusal(latents) == (
        f"--from-latents {latents}: model.path = '{model}' is another model than the one that made "
        "these latents (its files differ); give a folder that has that one, --set "
        "model.path=FOLDER, or render the video anew"
    )


def test_a_folder_in_place_of_a_hub_model_is_taken_with_a_warning(
    made: VideoJob, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hub = made.model_copy(update={"model_identity": "someone/model@0123abc"})
    metadata = {"job": hub.model_dump_json()}
    save_latents(Output(str(tmp_path)), "hub", torch.zeros(SHAPE), metadata)
    again = job_from_latents(str(tmp_path / "hub"), [("model.path", str(model))])
    assert again.specification_hash == hub.specification_hash
    assert f"it cannot be told whether the model at {model} is the one that made them" in (
        caplog.text
    )


@pytest.mark.parametrize("metadata", [{}, {"job": '{"prompt": "a", "codec": "x"}'}])
def test_latents_of_another_version(metadata: dict[str, str], tmp_path: Path) -> None:
    save_latents(Output(str(tmp_path)), "kept", torch.zeros(SHAPE), metadata)
    assert refusal(tmp_path / "kept").endswith(
        "does not say how it was made in a way that this glc-ray understands; use the version that "
        "wrote it, or render the video anew"
    )


def test_a_flipped_byte_is_found_before_anything_is_started(
    made: VideoJob, latents: Path, tmp_path: Path
) -> None:
    header = read_header(None, str(latents))
    content = bytearray(latents.read_bytes())
    content[header.data_start + 5 * header.frame_bytes] ^= 1
    latents.write_bytes(content)
    was_connected = ray.is_initialized()
    with pytest.raises(UserError) as error:
        render(from_latents=str(latents), output=str(tmp_path / "out"))
    assert str(error.value) == (
        f"{latents}: latent frames 0 to 8 are corrupted (their checksum differs); give a file that "
        "--keep-latents wrote, or render the video again"
    )
    assert ray.is_initialized() == was_connected
    assert not list((tmp_path / "out" / "videos").iterdir())
    assert not (tmp_path / "out" / ".work" / video_id(made)).exists()
