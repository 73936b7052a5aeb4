"""Validation errors of the specification in words: key, value, what is allowed, what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from typing import Any, get_args, get_origin

from pydantic import BaseModel

Location = Sequence[str | int]

# YAML takes "chunk:4" for one word.
_NO_SPACE = re.compile(r"(\w+):(\S+)")
_WORDS = {bool: "true or false", int: "a number", float: "a number", str: "a text"}


def explain(model: type[BaseModel], detail: Any) -> str:
    """One of pydantic's errors in words.

    Args:
        model: what was validated.
        detail: an item of ``ValidationError.errors()``.
    """
    if allowed := _allowed_entry(model, detail["loc"]):
        location, kinds = allowed
        refusal = f"{dotted(location)} = {detail['input']!r} is not allowed"
        return f"{refusal}: it takes {kinds}{_meaning(model, location[:-1])}"
    location = detail["loc"]
    key, parent = dotted(location), section_at(model, location[:-1])
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        return _unknown(model, (*location[:-1], str(location[-1])))
    if detail["type"] == "missing":
        return f"the key {key} is missing; add it"
    refusal = f"{key} = {detail['input']!r} is not allowed"
    if section := section_at(model, location):
        return f"{refusal}: {_expected_section(section, location)}{_colon(detail['input'])}"
    if item := section_at(model, (*location, 0)):
        return f"{refusal}: {key} is a list; for example [{_braces(item)}, {_braces(item)}]"
    message = detail["msg"][0].lower() + detail["msg"][1:]
    field = parent.model_fields.get(str(location[-1])) if parent else None
    close = _closest(detail["input"], get_args(field.annotation) if field else ())
    return f"{refusal}: {message}{_meaning(model, location)}{close}"


def dotted(location: Location) -> str:
    """``("prompts", 1, "text")`` -> ``prompts[1].text``."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return "".join(parts).removeprefix(".")


def is_switch(section: type[BaseModel] | None) -> bool:
    """A section that true and false turn on and off."""
    return section is not None and "enabled" in section.model_fields


def section_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The section at a location, where there is one; an index goes into a list of sections."""
    kind: Any = model
    for part in location:
        if isinstance(part, int):
            kind = get_args(kind)[0] if get_origin(kind) is tuple else None
        else:
            field = kind.model_fields.get(part) if _is_section(kind) else None
            kind = field.annotation if field else None
    return kind if _is_section(kind) else None


def _unknown(model: type[BaseModel], location: Location) -> str:
    key, unknown = dotted(location), str(location[-1])
    parent = section_at(model, location[:-1])
    fields = list(parent.model_fields) if parent else []
    if ":" in unknown:
        return f"unknown key {key}{_colon(unknown)}"
    close = difflib.get_close_matches(unknown, fields, n=1)
    if not close and len(location) == 1:
        # One that belongs into a section.
        paths = list(key_paths(model))
        by_name = {path.rpartition(".")[2]: path for path in paths}
        close = (
            [path for path in paths if path.endswith(f".{unknown}")]
            or [path for path in paths if path.endswith(f"_{unknown}")]
            or [by_name[name] for name in difflib.get_close_matches(unknown, by_name, n=1)]
        )
    hint = f"; did you mean {' or '.join(close)}?" if close else ""
    return f"unknown key {key}; allowed here: {', '.join(fields)}{hint}"


def key_paths(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Every key of the specification, sections among them, as its dotted path."""
    for name, field in model.model_fields.items():
        yield ".".join((*above, name))
        if _is_section(field.annotation):
            yield from key_paths(field.annotation, (*above, name))  # type: ignore[arg-type]


def _allowed_entry(model: type[BaseModel], location: Location) -> tuple[Location, str] | None:
    """The place of an entry of a free mapping, and the kinds of value that it takes.

    pydantic gives an error for each of them, with the kind at the location's end.
    """
    for depth, part in enumerate(location):
        parent = section_at(model, location[:depth])
        field = parent.model_fields.get(str(part)) if parent else None
        if field and get_origin(field.annotation) is dict and len(location) > depth + 2:
            kinds = get_args(get_args(field.annotation)[1])
            *first, last = dict.fromkeys(_WORDS[kind] for kind in kinds)
            return location[: depth + 2], f"{', '.join(first)} or {last}"
    return None


def _meaning(model: type[BaseModel], location: Location) -> str:
    parent = section_at(model, location[:-1])
    field = parent.model_fields.get(str(location[-1])) if parent else None
    return f" ({field.description.rstrip('.')})" if field and field.description else ""


def _closest(value: Any, choices: Sequence[Any]) -> str:
    """A hint, where a text is nearly one of the choices."""
    names = [choice for choice in choices if isinstance(choice, str)]
    close = difflib.get_close_matches(value, names, n=1) if isinstance(value, str) else []
    return f"; did you mean {close[0]}?" if close else ""


def _colon(text: Any) -> str:
    match = _NO_SPACE.match(text) if isinstance(text, str) else None
    return f"; YAML needs a space after the colon: {match[1]}: {match[2]}" if match else ""


def _expected_section(section: type[BaseModel], location: Location) -> str:
    """What may stand in place of a value that is no section."""
    key, fields = dotted(location), ", ".join(section.model_fields)
    if is_switch(section):
        return f"{key} is true, false or further keys: {fields}; for example --set {key}=false"
    if isinstance(location[-1], int):
        return f"{key} holds further keys: {fields}; for example {_braces(section)}"
    first = next(iter(section.model_fields))
    return f"{key} holds further keys: {fields}; for example --set {key}.{first}=..."


def _braces(section: type[BaseModel]) -> str:
    return "{" + ", ".join(f"{name}: ..." for name in section.model_fields) + "}"


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
