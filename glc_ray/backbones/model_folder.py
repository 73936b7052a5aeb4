"""Where a model's files are, whether they are whole, and which model they are.

Every model is a folder in diffusers' format: an embedded one, a folder of the user's, or a hub
snapshot. Only configuration files are read here, never a weight into memory.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from glc_ray.config import ModelSpec
from glc_ray.foreign import from_json
from glc_ray.protocols import UserError
from glc_ray.store.storage import expanded

_WEIGHT_PARTS = ("transformer", "transformer_2", "vae", "text_encoder")
_CONFIG_PATTERNS = ["*.json", "*/*.json", "*/*.model", "*/*.txt"]
_HASHED_WHOLE_BYTES = 64 << 20


def resolve(model: ModelSpec, *, weights: bool = True) -> Path:
    """The local folder of a model, fetched from the hub where ``path`` is a hub id.

    Args:
        model: ``path`` is ``package:NAME``, a folder, or a hub id.
        weights: they are needed, and fetched from the hub (False: configuration files alone).

    Raises:
        UserError: no such model, or a part of the folder is missing.
    """
    if _is_package(model):
        folder = Path(str(files("glc_ray"))) / "backbones" / model.path.removeprefix("package:")
    elif _is_folder(model):
        folder = expanded(model.path)
    else:
        return _fetch(model, weights)
    return _checked(folder, model, weights)


def check_weights(model: ModelSpec) -> None:
    """Refuse a folder without the model's weights; those of a hub model are fetched by workers.

    Raises:
        UserError: a part of the folder is missing.
    """
    if _is_package(model) or _is_folder(model):
        resolve(model, weights=True)


def read_config(folder: Path, part: str) -> dict[str, Any]:
    """The JSON configuration of one part of the model (``transformer``, ``vae``, ...).

    Raises:
        UserError: there is none that can be read; later also, where a key is asked for that it
            does not have.
    """
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    return _read_object(folder / part / name)


def pin(model: ModelSpec) -> ModelSpec:
    """The same model, named so that every process of a cluster finds just this one.

    A folder gets its absolute path, a hub id its commit.
    """
    if _is_package(model):
        return model
    folder = resolve(model, weights=False)
    if _is_folder(model):
        return model.model_copy(update={"path": str(folder.resolve())})
    return model.model_copy(update={"revision": folder.name})


def identity(model: ModelSpec) -> str:
    """A digest of the model's files, equal on every machine that has the same model.

    A hub model is named by its commit. Otherwise every file counts: whole up to 64 MiB, and by
    size, first and last MiB beyond (weights of tens of gigabytes would take minutes).
    """
    folder = resolve(model, weights=False)
    if not (_is_package(model) or _is_folder(model)):
        return f"{model.path}@{folder.name}"
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".json", ".safetensors", ".model", ".txt"):
            digest.update(file.relative_to(folder).as_posix().encode())
            _update(digest, file)
    return digest.hexdigest()


def read_index(folder: Path, model: ModelSpec) -> dict[str, Any]:
    """``model_index.json``: the pipeline's class, its parts and its own settings.

    Raises:
        UserError: there is none that can be read.
    """
    try:
        index = from_json((folder / "model_index.json").read_text(encoding="utf-8"))
        if not isinstance(index, dict):
            raise ValueError
        return index
    except (OSError, ValueError):
        raise UserError(
            f"model.path = {model.path!r}: {folder} has no model_index.json that can be read; give "
            "a folder in diffusers' format, a hub id such as THUDM/CogVideoX-2b, or "
            "package:toyworld"
        ) from None


def check_class(folder: Path, expected: str, model: ModelSpec) -> None:
    """Refuse a folder of another kind of model.

    Raises:
        UserError: ``model_index.json`` names another pipeline class.
    """
    found = read_index(folder, model).get("_class_name")
    if found != expected:
        raise UserError(
            f"model.path = {model.path!r}: a model of diffusers' {found}, but model.backbone = "
            f"{model.backbone!r} loads {expected}; give a model of that kind"
        )


def vocabulary(folder: Path) -> frozenset[str] | None:
    """The words of a word-level tokenizer; None for one that can spell any word.

    Raises:
        UserError: it has a file, which cannot be read or lacks the words.
    """
    file = folder / "tokenizer" / "tokenizer.json"
    if not file.is_file():
        return None
    tokenizer = _read_object(file)["model"]
    if not isinstance(tokenizer, dict):
        raise _missing(file, "model")
    if tokenizer.get("type") != "WordLevel":
        return None
    words = tokenizer.get("vocab")
    if not isinstance(words, dict):
        raise _missing(file, "model.vocab")
    return frozenset(word for word in words if not word.startswith("<"))


class _Configuration(dict[str, Any]):
    """What a file holds, which is named where a key is asked for that it lacks: half a copy."""

    def __init__(self, values: dict[str, Any], file: Path) -> None:
        super().__init__(values)
        self._file = file

    def __missing__(self, key: str) -> Any:
        raise _missing(self._file, key)


def _read_object(file: Path) -> _Configuration:
    try:
        values = from_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict):
        raise UserError(
            f"model.path: {file} cannot be read as a JSON object; copy or download the model again"
        )
    return _Configuration(values, file)


def _missing(file: Path, key: str) -> UserError:
    return UserError(
        f"model.path: {file} has no {key!r}, without which the model cannot be used; copy or "
        "download it again"
    )


def _is_package(model: ModelSpec) -> bool:
    return model.path.startswith("package:")


def _is_folder(model: ModelSpec) -> bool:
    """An existing folder, or what can only be meant as one; anything else is a hub id."""
    return expanded(model.path).is_dir() or model.path.startswith((".", "/", "~"))


def _checked(folder: Path, model: ModelSpec, weights: bool) -> Path:
    index = read_index(folder, model)
    # An optional part that the model does without is [null, null].
    parts = [part for part, value in index.items() if isinstance(value, list) and any(value)]
    for part in parts:
        if not part.isidentifier():
            raise UserError(f"model.path = {model.path!r}: {part!r} is no name of a part")
        _refuse_own_code(folder / part, model)
        needed = ["*.safetensors"] if weights and part in _WEIGHT_PARTS else []
        for pattern in (*needed, "*.json"):
            if not any((folder / part).glob(pattern)):
                raise UserError(
                    f"model.path = {model.path!r}: the part {part!r} is missing: no {pattern} in "
                    f"{folder / part}; a whole model has {', '.join(parts)}; copy or download it "
                    "again"
                )
    return folder


def _refuse_own_code(part: Path, model: ModelSpec) -> None:
    """Refuse a part that asks for classes of the folder's own: no such code is ever run."""
    for name in ("config.json", "tokenizer_config.json"):
        if (part / name).exists() and "auto_map" in _read_object(part / name):
            raise UserError(
                f"model.path = {model.path!r}: {part / name} asks for code of the model's own "
                "(auto_map), and none is run; use a model whose classes are those of diffusers and "
                "transformers"
            )


def _fetch(model: ModelSpec, weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*_CONFIG_PATTERNS, *(["*/*.safetensors"] if weights else [])]
    try:
        return Path(snapshot_download(model.path, revision=model.revision, allow_patterns=patterns))
    except LocalEntryNotFoundError:
        raise UserError(
            f"model.path = {model.path!r}: not downloaded yet, and the hub cannot be reached from "
            f"here; download it where there is network (hf download {model.path}), or give a "
            "folder that has it: --set model.path=FOLDER"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model.path = {model.path!r} is neither a folder here nor a model that the hub gives "
            f"({reason}); give a folder in diffusers' format, a hub id, or package:toyworld"
        ) from None


def _update(digest: Any, file: Path) -> None:
    size = file.stat().st_size
    digest.update(str(size).encode())
    with file.open("rb") as stream:
        if size <= _HASHED_WHOLE_BYTES:
            digest.update(stream.read())
            return
        digest.update(stream.read(1 << 20))
        stream.seek(-(1 << 20), 2)
        digest.update(stream.read())
