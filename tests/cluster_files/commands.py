"""Command lines in files and documents, parsed by the commands themselves."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import click
from ray.scripts.scripts import cli as ray_cli

from glc_ray.config import PipelineSpec
from glc_ray.options import asked_for, assigned
from glc_ray.pipeline_file import load_pipeline
from glc_ray.runtime.cluster import _needs, _Node, _unplaced

_REQUEST = ("num_frames", "fps", "steps", "workers", "guidance_scale", "method")


def parse(words: list[str]) -> click.Context | None:
    """Parse a command of Ray's or of ours; of a job that is submitted, its own. None is another.

    Raises:
        click.UsageError: it would be refused.
    """
    program = words[0].rpartition("/")[2]
    if program == "python" and words[1] == "-m" and words[2].startswith("glc_ray."):
        program, words = "glc-ray", ["glc-ray", words[2].removeprefix("glc_ray."), *words[3:]]
    if program == "glc-ray" and not words[1].startswith("-"):
        return import_module(f"glc_ray.{words[1]}").main.make_context(words[1], words[2:])
    if program != "ray":
        return None
    command: Any = ray_cli
    name, rest = "ray", words[1:]
    while isinstance(command, click.Group):
        found, command, rest = command.resolve_command(click.Context(command), rest)
        name = f"{name} {found}"
    context = command.make_context(name, list(rest))
    return parse(words[words.index("--") + 1 :]) if name == "ray job submit" else context


def render_spec(words: list[str]) -> PipelineSpec:
    """The specification that a render with these words has, before its catalog."""
    context = parse(words)
    assert context is not None
    given = context.params
    options = assigned(given["assignments"])
    return load_pipeline(
        given["pipeline"], asked_for(options, **{name: given[name] for name in _REQUEST})
    )


def unplaced(spec: PipelineSpec, nodes: list[dict[str, float]]) -> str:
    """Which actors find no room on nodes with these resources; empty where all do."""
    free = [_Node(node["CPU"], [1.0] * int(node.get("GPU", 0)), dict(node)) for node in nodes]
    return _unplaced(_needs(spec.resources), free)


def shell_commands(text: str) -> Iterator[list[str]]:
    """Every command of the ``sh`` blocks of a document, its lines joined and its words split."""
    for block in re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True):
                while re.fullmatch(r"[A-Z_]+=.*", words[0]):
                    words = words[1:]
                yield words
