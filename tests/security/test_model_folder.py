"""Whoever makes a model folder chooses numbers, and no code."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest

import glc_ray
from glc_ray.backbones import model_folder
from glc_ray.config import ModelSpec
from glc_ray.protocols import UserError

TOYWORLD = Path(glc_ray.__file__).parent / "backbones" / "toyworld"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TOYWORLD, tmp_path / "model"))


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.pt"])
def test_weights_of_pickles_are_refused(name: str, folder: Path) -> None:
    (weights,) = (folder / "transformer").glob("*.safetensors")
    weights.unlink()
    (folder / "transformer" / name).write_bytes(pickle.dumps({}))
    with pytest.raises(UserError, match=r"no \*.safetensors"):
        model_folder.check_weights(ModelSpec(path=str(folder)))


@pytest.mark.parametrize("file", ["tokenizer/tokenizer_config.json", "text_encoder/config.json"])
def test_no_code_of_a_model_runs(file: str, folder: Path) -> None:
    config = json.loads((folder / file).read_text())
    config["auto_map"] = {"AutoTokenizer": [None, "own.Own"], "AutoConfig": "own.Own"}
    (folder / file).write_text(json.dumps(config))
    (folder / Path(file).parent / "own.py").write_text("raise SystemExit('pwned')")
    with pytest.raises(UserError, match="asks for code of the model's own"):
        model_folder.resolve(ModelSpec(path=str(folder)))
    for index in ("[]", '{"../../x": ["a", "b"]}', "[" * 100_000):
        (folder / "model_index.json").write_text(index)
        with pytest.raises(UserError, match=r"model\.path = "):
            model_folder.resolve(ModelSpec(path=str(folder)))
