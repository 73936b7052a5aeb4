"""What a row of a catalog says: its columns, and the keys of a pipeline file that it sets."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args, get_origin

from glc_ray.config import PipelineSpec
from glc_ray.explain import key_paths, section_at
from glc_ray.foreign import read_yaml
from glc_ray.pipeline_file import OPTION_KEYS, Override, in_brackets
from glc_ray.prompts import PromptLike
from glc_ray.protocols import UserError

_ALIASES = {
    name: key for name, key in OPTION_KEYS.items() if name not in ("workers", "preview_every")
}
OWN_COLUMNS = ("prompt", "prompts", "name", "seed", "pipeline", "priority")
"""What is no key of the pipeline that the row uses."""
COLUMNS = (*OWN_COLUMNS, *_ALIASES)
"""Of a catalog, beside the keys of a pipeline file by their dotted paths."""

_KEYS = frozenset(key_paths(PipelineSpec))


class Setting(NamedTuple):
    """A value of a row for a key of its pipeline."""

    column: str
    """As the row calls the key."""
    key: str
    """Dotted path."""
    value: Any

    def override(self) -> Override:
        """As ``load_pipeline`` takes it."""
        value, section = self.value, section_at(PipelineSpec, self.key.split("."))
        if isinstance(value, str) and (section or _is_structured(self.key)):
            # As --set reads it: a cell of a table has no other way to say false, or a list.
            try:
                value = read_yaml(value)
            except ValueError as error:
                raise UserError(
                    f"{self.key} = {value!r}: is not valid YAML{in_brackets(error)}; quote it"
                ) from None
        typed = None if self.column == self.key else f"{self.column} = {value!r}"
        return Override(self.key, value, typed)


def settings_of(values: Mapping[str, Any]) -> list[Setting]:
    """What a row sets in its pipeline.

    Raises:
        UserError: a key that no row may have, or one that is given in two ways.
    """
    settings = []
    columns: dict[str, str] = {}
    for column, value in _flat(values):
        if column in OWN_COLUMNS:
            continue
        check_key(column, "key")
        if column in _ALIASES and value is None:
            continue
        key = _ALIASES.get(column, column)
        if key in columns:
            raise UserError(f"{columns[key]} and {column} set the same key; leave one out")
        columns[key] = column
        settings.append(Setting(column, key, value))
    return settings


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """``{"glc": {"vmcr": false}}`` as ``("glc.vmcr", False)``."""
    for key, value in values.items():
        path = f"{above}{key}"
        if isinstance(value, dict) and section_at(PipelineSpec, path.split(".")):
            yield from _flat(value, f"{path}.")
        else:
            yield path, value


def check_key(key: str, what: str) -> None:
    """Refuse a key that no row may have (UserError).

    Args:
        key: a column, or a dotted path.
        what: to call it.
    """
    if key.split(".")[0] in ("resources", "workers"):
        raise UserError(
            f"{what} {key!r}: where the work is done is a matter of the whole run, not of a row; "
            "take it out, and give the command --workers N or --set resources.KEY=VALUE"
        )
    if key in ("model", "model.path", "model.revision"):
        raise UserError(
            f"{what} {key!r}: which model's files are loaded is a matter of the pipeline, not of a "
            "row; take it out, and name a pipeline that has the model, or give the command "
            "--set model.path=FOLDER"
        )
    if key in COLUMNS or key in _KEYS or _is_free(key):
        return
    known = [*COLUMNS, *sorted(_KEYS)]
    by_last = {path.rpartition(".")[2]: path for path in reversed(known)}
    close = difflib.get_close_matches(key, known, n=1)
    close = close or [by_last[last] for last in difflib.get_close_matches(key, by_last, n=1)]
    hint = f"; did you mean {close[0]}?" if close else ""
    raise UserError(
        f"unknown {what} {key!r}; allowed are {', '.join(COLUMNS)} and the keys of a pipeline file "
        f"by their paths, such as glc.vmcr or encode.crf{hint}"
    )


def _is_free(key: str) -> bool:
    """An entry of a mapping that takes any keys."""
    section, _, entry = key.rpartition(".")
    return bool(entry) and section in _KEYS and _is_structured(section, only=(dict,))


def _is_structured(key: str, only: tuple[type, ...] = (dict, tuple)) -> bool:
    """Whether the value of a key is a mapping or a list, or an entry of a free mapping."""
    *parents, last = key.split(".")
    section = section_at(PipelineSpec, parents) if parents else PipelineSpec
    if section is None:
        return dict in only
    kind = section.model_fields[last].annotation
    return any(get_origin(choice) in only for choice in (kind, *get_args(kind)))


def prompt_of(own: Mapping[str, Any]) -> PromptLike | None:
    """What the video of a row shows; None is the prompt of the pipeline that the row names."""
    if "prompt" in own and "prompts" in own:
        raise UserError(
            "prompt and prompts are both given, and a video has one of them; leave one out"
        )
    if "prompt" in own:
        return text_of("prompt", own["prompt"])
    prompts = own.get("prompts")
    if isinstance(prompts, str):
        try:
            prompts = json.loads(prompts)
        except (ValueError, RecursionError):
            prompts = None
    if isinstance(prompts, list):
        return prompts
    if "prompts" in own:
        raise UserError(f"prompts = {own['prompts']!r}: must be {_PROMPTS}")
    if "pipeline" not in own:
        raise UserError(
            "the row does not say what its video shows; give prompt, for example "
            f'"a red ball rolls over the meadow at day", or prompts, {_PROMPTS}'
        )
    return None


_PROMPTS = 'a list such as [{"at_frame": 0, "text": "day"}, {"at_frame": 73, "text": "night"}]'


def text_of(key: str, value: Any) -> str:
    """The value of a column that is a text (UserError: it is none)."""
    if isinstance(value, str):
        return value
    raise UserError(f"{key} = {value!r}: must be a text; write it in quotes")


def whole_number(own: Mapping[str, Any], key: str, default: int) -> int:
    """The value of a column that is a whole number, which a table may have as text or float."""
    value = own.get(key, default)
    try:
        number = int(value)
        is_whole = not isinstance(value, bool) and (isinstance(value, str) or number == value)
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        raise UserError(f"{key} = {value!r}: must be a whole number; leave it out for {default}")
    return number
