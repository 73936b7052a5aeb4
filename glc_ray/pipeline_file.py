"""From a pipeline file and the command line to a specification, with errors that help."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError

from glc_ray.config import METHODS, PipelineSpec
from glc_ray.explain import dotted, explain, is_switch, section_at
from glc_ray.foreign import LONGEST_PIPELINE, read_yaml
from glc_ray.protocols import UserError

Spec = TypeVar("Spec", bound=BaseModel)

OPTION_KEYS = {
    "num_frames": "video.num_frames",
    "fps": "video.fps",
    "steps": "sampling.num_steps",
    "guidance_scale": "sampling.guidance_scale",
    "workers": "resources.denoisers.count",
    "method": "method",
    "preview_every": "preview.every",
}
"""The specification key that each option of the command line sets."""

_LOG = logging.getLogger(__name__)
_SHOWN = 200
"""Characters of what is no pipeline: it may be another file altogether."""


class Override(NamedTuple):
    """A value in place of a pipeline file's."""

    key: str
    """Dotted path."""
    value: Any
    typed: str | None = None
    """As it stands on the command line, where that does not name the key: ``--steps 0``."""


def pipeline_names() -> list[str]:
    """Names that ``--pipeline`` knows without a file."""
    return sorted(file.name.removesuffix(".yaml") for file in _pipeline_folder().glob("*.yaml"))


def load_pipeline(
    name_or_file: str, overrides: Iterable[tuple[str, Any] | Override] = ()
) -> PipelineSpec:
    """Read a pipeline by name or YAML file and apply ``(dotted key, value)`` overrides in order.

    Options of a method that is not used are warned of, where they are among the overrides.

    Raises:
        UserError: no such pipeline, one that cannot be read, not YAML, or a key or value that is
            not allowed.
    """
    path = _find_pipeline(name_or_file)
    try:
        if not path.is_file():
            raise UserError(
                f"--pipeline {name_or_file}: no such file; write one or use a known name"
            )
        with path.open(encoding="utf-8") as file:
            # One more than is taken, of however large a file.
            data = read_yaml(file.read(LONGEST_PIPELINE + 1), LONGEST_PIPELINE)
    except OSError as error:
        raise UserError(
            f"--pipeline {name_or_file}: cannot be read ({error.strerror}); give the path of a "
            ".yaml file that you may read, or use a known name"
        ) from None
    except ValueError as error:
        raise UserError(f"--pipeline {name_or_file}: not valid YAML: {error}") from None
    if not isinstance(data, dict):
        found = repr(data)[:_SHOWN]
        raise UserError(f"--pipeline {name_or_file}: expected keys such as model:, found {found}")
    data.setdefault("name", path.stem)
    typed: dict[str, str | None] = {}
    for override in overrides:
        key, value, typed[key] = Override(*override)
        set_key(data, key, value)
    spec = validate(PipelineSpec, data, where=f"pipeline {data['name']}", typed=typed)
    _warn_of_unused(typed, spec.method)
    return spec


def parse_assignment(text: str) -> tuple[str, Any]:
    """``key.path=value`` with the value read as YAML: ``glc.vmcr=false`` -> (``glc.vmcr``, False).

    Raises:
        UserError: there is no ``=`` or no key, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {text}: expected key.path=value, for example --set glc.vmcr=false")
    try:
        return key.strip(), read_yaml(value)
    except ValueError as error:
        raise UserError(
            f"--set {text}: the value {value!r} is not valid YAML{in_brackets(error)}; quote it"
        ) from None


def in_brackets(error: ValueError) -> str:
    """Why a value is refused; nothing where the parser shows it in many lines."""
    return "" if "\n" in str(error) else f" ({error})"


def validate(
    model: type[Spec],
    data: Mapping[str, Any],
    *,
    where: str,
    typed: Mapping[str, str | None] | None = None,
) -> Spec:
    """Validate ``data``, with errors that name key, value, what is allowed and what to do.

    Args:
        model: the specification.
        data: its keys.
        where: who is to blame: a pipeline, an argument.
        typed: what is to blame instead for the values of some keys, as a person typed it.
    """
    typed = typed or {}
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [
            f"{typed.get(dotted(detail['loc'])) or where}: {explain(model, detail)}"
            for detail in error.errors()
        ]
        # One line a key, though pydantic gives one for each kind of value that it might be.
        raise UserError("\n".join(dict.fromkeys(lines))) from None


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
    return path


def set_key(data: dict[str, Any], key: str, value: Any) -> None:
    """Put a value at a dotted key of a pipeline file's data (UserError: it is no place)."""
    *parents, last = parts = key.split(".")
    if not all(part.strip() for part in parts):
        if len(parts) > 1 and (whole := ".".join(part for part in parts if part.strip())):
            hint = f"write {whole}, or the whole path of another key"
        else:
            hint = "write a key such as glc.vmcr"
        raise UserError(f"--set {key}={value}: the key {key!r} has an empty part; {hint}")
    for depth, parent in enumerate(parents, start=1):
        child = data.setdefault(parent, {})
        if isinstance(child, bool) and is_switch(section_at(PipelineSpec, parents[:depth])):
            child = data[parent] = {"enabled": child}
        if not isinstance(child, dict):
            raise UserError(f"--set {key}: {parent} holds the value {child!r}, not further keys")
        data = child
    data[last] = value


def _warn_of_unused(keys: Iterable[str], method: str) -> None:
    """Log a warning of options of methods that take no part."""
    for key in keys:
        section = key.split(".")[0]
        if section in METHODS and section != method:
            _LOG.warning(
                "--set %s: has no effect, since the method is %s; leave it out, or use --method %s",
                key,
                method,
                section,
            )
