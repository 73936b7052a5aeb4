"""The ``glc-ray`` command, and what every front door shares: exit codes, errors without traceback.

Exit codes: 0 done, 1 a video failed, 2 the request cannot be rendered, 3 stopped by a signal.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

import click

from glc_ray import __version__
from glc_ray.config import LOG_FORMATS
from glc_ray.logs import as_json
from glc_ray.plain_text import printable, without_keys
from glc_ray.protocols import UserError
from glc_ray.stopping import StoppedError

_FRONT_DOORS = (
    "bench",
    "cancel",
    "compare",
    "evaluate",
    "plan",
    "render",
    "report",
    "retry",
    "status",
)


class RenderError(RuntimeError):
    """A video failed; the message says why. Its row is in the manifest."""


class FrontDoor(click.Command):
    """A command that ends a mistake or a failed video in a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        # Read when Ray is imported: nothing that asks it late must start a cluster of its own.
        os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
        if os.environ.get("NO_COLOR") or not sys.stderr.isatty():
            # Ray colours what it says itself, in log files, too.
            os.environ.setdefault("RAY_COLOR_PREFIX", "0")
        try:
            return super().invoke(ctx)
        except (UserError, RenderError) as error:
            _tell(ctx, str(error))
            ctx.exit(2 if isinstance(error, UserError) else 1)
        except StoppedError as error:
            text = "what is finished is kept, and the same command goes on from there"
            _tell(ctx, f"stopped by {error}: {text}", level="")
            ctx.exit(3)
        except RuntimeError as error:
            if not _is_for_people(error):
                raise
            _tell(ctx, str(error))
            ctx.exit(1)


def _is_for_people(error: RuntimeError) -> bool:
    """Whether its message says what happened and what to do."""
    # Late: they import pyarrow and ffmpeg's wrappers.
    from glc_ray.media.ffmpeg import FFmpegError
    from glc_ray.store.lease import LeaseLostError
    from glc_ray.store.storage import StorageError

    return isinstance(error, FFmpegError | LeaseLostError | StorageError)


def _tell(ctx: click.Context, text: str, *, level: str = "error") -> None:
    """A last line, in the form of all others."""
    if ctx.params.get("log_format") == "json":
        click.echo(as_json(level or "info", text), err=True)
    else:
        text = without_keys(printable(text))
        click.echo(f"{level}: {text}" if level else text, err=True)


def _no_color(ctx: click.Context, option: click.Parameter, is_asked: bool) -> None:
    if is_asked:
        os.environ["NO_COLOR"] = "1"


no_color_option = click.option(
    "--no-color",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=_no_color,
    help="Show no colours, as with NO_COLOR in the environment.",
)
log_format_option = click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    default="text",
    help="Of progress, warnings and errors, here and in actors: json is an object a line. [text]",
)


class _Group(click.Group):
    """Imports a front door when it is asked for; each is also ``python -m glc_ray.NAME``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_FRONT_DOORS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _FRONT_DOORS:
            return None
        return import_module(f"glc_ray.{cmd_name}").main


@click.group(cls=_Group)
@click.version_option(__version__, prog_name="glc-ray")
def main() -> None:
    """Long videos from short-clip video diffusion models, without training, on a Ray cluster."""
