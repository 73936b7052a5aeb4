"""What a person is told of an error, wherever it happened."""

from __future__ import annotations

import pytest
from ray.exceptions import RayActorError, RayError, RayTaskError

from glc_ray.runtime.failures import in_words

GOES_ON = "what is finished is kept, and the same command goes on from there"


def remote(cause: Exception) -> RayError:
    """As a call of an actor raises it, with a traceback of several lines in its text."""
    trace = f"ray::TileActor.decode_tiles() (pid=7)\n  File x, line 1\n{type(cause)}: {cause}"
    return RayTaskError("decode_tiles", trace, cause).as_instanceof_cause()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (remote(LookupError("no caches")), "LookupError: no caches"),
        (RayTaskError("f", "ray::f()\n  File x\nValueError: odd", None), "ValueError: odd"),
        (ValueError("odd"), "ValueError: odd"),
    ],
)
def test_an_error_in_another_process_is_told_without_its_traceback(
    error: Exception, text: str
) -> None:
    assert in_words(error) == f"{text}; {GOES_ON}"


def test_a_lost_actor_is_told_in_a_line() -> None:
    assert "\n" not in in_words(RayActorError())
