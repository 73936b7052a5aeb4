"""A model folder that was copied halfway: what is wrong with it is named, file and key."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from glc_ray.backbones import registry
from glc_ray.config import ModelSpec
from glc_ray.job import build_job
from glc_ray.pipeline_file import load_pipeline
from glc_ray.protocols import UserError
from tests.conftest import TOYWORLD
from tests.tiny_wan import CLIP, TinyWan, tiny_wan  # noqa: F401

CONFIGS = ("transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TOYWORLD, tmp_path / "model"))


def mistake(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        build_job(load_pipeline("toyworld", [("model.path", str(folder))]), "a red ball", 0)
    return str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b'{"in_chan', b"[]", b"null", b"\xff\xfe", b"[" * 100_000]
)
@pytest.mark.parametrize("file", [*CONFIGS, "text_encoder/config.json", "tokenizer/tokenizer.json"])
def test_a_file_that_is_no_configuration_is_named(file: str, content: bytes, folder: Path) -> None:
    (folder / file).write_bytes(content)
    assert mistake(folder) == (
        f"model.path: {folder / file} cannot be read as a JSON object; copy or download the model "
        "again"
    )


@pytest.mark.parametrize("file", CONFIGS)
def test_a_configuration_that_is_not_there_is_named(file: str, folder: Path) -> None:
    (folder / file).rename(folder / Path(file).parent / "other.json")
    assert mistake(folder).startswith(f"model.path: {folder / file} cannot be read as a JSON")


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("transformer/config.json", "in_channels"),
        ("transformer/config.json", "sample_height"),
        ("transformer/config.json", "sample_frames"),
        ("vae/config.json", "block_out_channels"),
        ("vae/config.json", "temporal_compression_ratio"),
        ("tokenizer/tokenizer.json", "model"),
    ],
)
def test_a_key_that_is_missing_is_named(file: str, key: str, folder: Path) -> None:
    values = json.loads((folder / file).read_text())
    del values[key]
    (folder / file).write_text(json.dumps(values))
    assert mistake(folder) == (
        f"model.path: {folder / file} has no {key!r}, without which the model cannot be used; copy "
        "or download it again"
    )


@pytest.mark.parametrize("model", [[], {"type": "WordLevel"}, {"type": "WordLevel", "vocab": []}])
def test_a_tokenizer_without_words_is_named(model: object, folder: Path) -> None:
    file = folder / "tokenizer" / "tokenizer.json"
    file.write_text(json.dumps({"model": model}))
    assert mistake(folder).startswith(f"model.path: {file} has no '")


@pytest.mark.parametrize("key", ["patch_size", "in_channels"])
def test_a_key_that_is_missing_of_wan_is_named(
    key: str,
    tiny_wan: TinyWan,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(tiny_wan("one"), tmp_path / "model"))
    file = folder / "transformer" / "config.json"
    values = json.loads(file.read_text())
    del values[key]
    file.write_text(json.dumps(values))
    clip = {name.removeprefix("model."): value for name, value in CLIP.items()}
    with pytest.raises(UserError, match=f"config.json has no '{key}'"):
        registry.facts(ModelSpec(backbone="wan", path=str(folder), **clip))
