"""From a pipeline file and the command line to a specification, with errors that help."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from glc_ray.config import PipelineSpec
from glc_ray.protocols import UserError

Spec = TypeVar("Spec", bound=BaseModel)


def pipeline_names() -> list[str]:
    """Names that ``--pipeline`` knows without a file."""
    return sorted(file.name.removesuffix(".yaml") for file in _pipeline_folder().glob("*.yaml"))


def load_pipeline(name_or_file: str, overrides: Iterable[tuple[str, Any]] = ()) -> PipelineSpec:
    """Read a pipeline by name or YAML file and apply ``(dotted key, value)`` overrides in order.

    Raises:
        UserError: no such pipeline, not YAML, or a key or value that is not allowed.
    """
    path = _find_pipeline(name_or_file)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"--pipeline {name_or_file}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise UserError(f"--pipeline {name_or_file}: expected keys such as model:, found {data!r}")
    data.setdefault("name", path.stem)
    for key, value in overrides:
        _set(data, key, value)
    return validate(PipelineSpec, data, where=f"pipeline {data['name']}")


def parse_assignment(text: str) -> tuple[str, Any]:
    """``key.path=value`` with the value read as YAML: ``glc.vmcr=false`` -> (``glc.vmcr``, False).

    Raises:
        UserError: there is no ``=`` or no key, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text}: expected key.path=value, for example --set glc.vmcr=false")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"--set {text}: the value {value!r} is not valid YAML; quote it") from None


def validate(model: type[Spec], data: Mapping[str, Any], *, where: str) -> Spec:
    """Validate ``data``, with errors that name key, value, what is allowed and what to do."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_explain(model, detail) for detail in error.errors()]
        raise UserError("\n".join(f"{where}: {line}" for line in lines)) from None


def _pipeline_folder() -> Path:
    """Package data in an installed wheel; the top-level folder in a checkout."""
    packaged = Path(str(files("glc_ray"))) / "pipelines"
    return packaged if packaged.is_dir() else packaged.parents[1] / "pipelines"


def _find_pipeline(name_or_file: str) -> Path:
    if name_or_file.endswith((".yaml", ".yml")):
        path = Path(name_or_file)
    else:
        path = _pipeline_folder() / f"{name_or_file}.yaml"
        if name_or_file not in pipeline_names():
            known = ", ".join(pipeline_names())
            raise UserError(
                f"--pipeline {name_or_file}: unknown pipeline; the known ones are {known}; "
                "or give the path of a .yaml file"
            )
    if not path.is_file():
        raise UserError(f"--pipeline {name_or_file}: no such file; write one or use a known name")
    return path


def _set(data: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents, start=1):
        child = data.setdefault(parent, {})
        if isinstance(child, bool) and _is_switch(_model_at(PipelineSpec, parents[:depth])):
            child = data[parent] = {"enabled": child}
        if not isinstance(child, dict):
            raise UserError(f"--set {key}: {parent} holds the value {child!r}, not further keys")
        data = child
    data[last] = value


def _explain(model: type[BaseModel], detail: Any) -> str:
    """One validation error in words."""
    location = detail["loc"]
    key, parent = _dotted(location), _model_at(model, location[:-1])
    fields = list(parent.model_fields) if parent else []
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        unknown = str(location[-1])
        close = difflib.get_close_matches(unknown, fields, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        key = _dotted((*location[:-1], unknown))
        return f"unknown key {key}; allowed here: {', '.join(fields)}{hint}"
    if detail["type"] == "missing":
        return f"the key {key} is missing; add it"
    refusal = f"{key} = {detail['input']!r} is not allowed"
    if section := _model_at(model, location):
        return f"{refusal}: {_expected_section(section, location)}"
    if item := _model_at(model, (*location, 0)):
        return f"{refusal}: {key} is a list; for example [{_braces(item)}, {_braces(item)}]"
    allowed = detail["msg"][0].lower() + detail["msg"][1:]
    field = parent.model_fields.get(str(location[-1])) if parent else None
    meaning = f" ({field.description.rstrip('.')})" if field and field.description else ""
    return f"{refusal}: {allowed}{meaning}"


def _expected_section(section: type[BaseModel], location: Sequence[str | int]) -> str:
    """What may stand in place of a value that is no section."""
    key, fields = _dotted(location), ", ".join(section.model_fields)
    if _is_switch(section):
        return f"{key} is true, false or further keys: {fields}; for example --set {key}=false"
    if isinstance(location[-1], int):
        return f"{key} holds further keys: {fields}; for example {_braces(section)}"
    first = next(iter(section.model_fields))
    return f"{key} holds further keys: {fields}; for example --set {key}.{first}=..."


def _dotted(location: Sequence[str | int]) -> str:
    """``("prompts", 1, "text")`` -> ``prompts[1].text``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def _braces(section: type[BaseModel]) -> str:
    return "{" + ", ".join(f"{name}: ..." for name in section.model_fields) + "}"


def _is_switch(section: type[BaseModel] | None) -> bool:
    """A section that true and false turn on and off."""
    return section is not None and "enabled" in section.model_fields


def _model_at(model: type[BaseModel], location: Sequence[str | int]) -> type[BaseModel] | None:
    """The section at a location, where there is one; an index goes into a list of sections."""
    kind: Any = model
    for part in location:
        if isinstance(part, int):
            kind = get_args(kind)[0] if get_origin(kind) is tuple else None
        else:
            field = kind.model_fields.get(part) if _is_section(kind) else None
            kind = field.annotation if field else None
    return kind if _is_section(kind) else None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
