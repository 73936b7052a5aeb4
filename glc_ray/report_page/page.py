"""The page itself: one file that asks nobody else for anything."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

_SCRIPTS = ("elements.js", "data.js", "charts.js", "timings.js", "query.js", "list.js", "video.js",
            "main.js")  # fmt: skip
"""In order: each uses those before it."""


def page(title: str) -> bytes:
    """The page of an output, as HTML.

    Its content security policy allows its own script and style, and data, pictures and videos that
    lie where it lies; nothing else is fetched or run, whatever the data say.

    Args:
        title: what the output is called; any characters.
    """
    environment = Environment(
        loader=PackageLoader("glc_ray.report_page", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    style, script = _style(), _script()
    html = environment.get_template("index.html").render(
        title=title,
        style=style,
        script=script,
        style_hash=_hash(style),
        script_hash=_hash(script),
    )
    return html.encode(errors="replace")


@cache
def _style() -> str:
    return _template("style.css")


@cache
def _script() -> str:
    body = "\n".join(_template(name) for name in _SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}}})();\n'


def _template(name: str) -> str:
    text = (files("glc_ray.report_page") / "template" / name).read_text(encoding="utf-8")
    assert "</s" not in text.lower(), f"{name} would end its own element"
    return text


def _hash(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
