"""Text that others may have written: JSON and YAML that cannot do more than be wrong.

Whoever writes a catalog or may write into an output chooses these bytes. What they can do is to be
refused: no code, no objects, no memory or time beyond a bound, and no exception but ``ValueError``.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import lru_cache
from typing import Any, TypeVar, cast

import yaml
from pydantic import TypeAdapter

Facts = TypeVar("Facts")

LONGEST_PIPELINE = 1 << 18
"""Characters of a pipeline file; the longest that is shipped has 2,000."""
LONGEST_VALUE = 1 << 14
"""Characters of a value in YAML, on a command line or in a cell."""
_DEEPEST = 32
_LONGEST_NUMBER = 64
_LARGEST_NUMBER = 2**63


def from_json(data: bytes | str) -> Any:
    """A JSON value.

    Raises:
        ValueError: it is none, or nested too deeply.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_facts(kind: type[Facts], data: bytes | None) -> Facts | None:
    """A dataclass of JSON; None where it is none such: there is no file, or another wrote it.

    Args:
        kind: the dataclass. Keys that it does not have are passed over, for another version may
            tell more.
        data: of a file, None where there is none.
    """
    try:
        values = from_json(data or b"")
        if not _is_moderate(values):
            return None
        facts = _adapter(cast("Any", kind)).validate_python(values)
        # Again, for a text that is a number is taken for one.
        return cast("Facts", facts) if _is_moderate(asdict(facts)) else None
    except ValueError:
        return None


@lru_cache
def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def read_yaml(text: str, longest: int = LONGEST_VALUE) -> Any:
    """A YAML value of plain types.

    Aliases are refused: a few of them, nested, stand for billions of values.

    Args:
        text: of a pipeline file, or of a value.
        longest: characters that it may have.

    Raises:
        ValueError: it is not YAML, or none of those that are read here; the message says why.
    """
    if len(text) > longest:
        raise ValueError(f"longer than {longest} characters")
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except (OverflowError, TypeError, AttributeError, LookupError) as error:
        # What the library makes of some dates, numbers and words that a tag calls one.
        raise ValueError(f"no value: {error}") from None


class _Loader(yaml.SafeLoader):
    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.YAMLError(f"*{event.anchor}: aliases are not read; write it out")
        self._depth += 1
        if self._depth > _DEEPEST:
            raise yaml.YAMLError(f"nested more than {_DEEPEST} levels deep")
        node = super().compose_node(parent, index)
        assert node is not None, "only for aliases of what is not there"
        self._depth -= 1
        is_number = node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")
        if is_number and len(node.value) > _LONGEST_NUMBER:
            # Numbers to the base of 60, too, whose reading takes the square of their length.
            raise yaml.YAMLError(f"a number of more than {_LONGEST_NUMBER} characters")
        return node


def _is_moderate(value: Any) -> bool:
    """All its numbers are such as a run tells: finite, and such as a clock can show."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict | list | tuple):
            waiting += one.values() if isinstance(one, dict) else one
        elif isinstance(one, int | float) and not abs(one) < _LARGEST_NUMBER:
            return False
    return True
