"""A real, headless Chromium. Whatever a page asks of another machine is refused and fails the
test."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
_NAMES = ("chromium", "chromium-browser", "google-chrome")


def find_program() -> str | None:
    """Chromium, or the program that CHROMIUM names."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _NAMES)), None)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The same for a module's tests, and gone with them: its driver runs an event loop in this
    thread, beside which asyncio runs no other."""
    program = find_program()
    if program is None:
        pytest.skip(
            "needs Chromium: install it (Debian: apt-get install chromium), or set CHROMIUM"
        )
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=program, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """``open_page(folder, "#...", width=..., color_scheme=...)``: the report of an output, from
    ``file://``; the test fails where it logged an error or asked for anything but its own files."""
    contexts, faults = [], []

    def open_(output: Path, address: str = "", *, url: str = "", width: int = 1280, **given: Any):
        # A size that phones have, too.
        size = {"width": width, "height": 844}
        context = browser.new_context(viewport=size, service_workers="block", **given)
        contexts.append(context)
        page = context.new_page()
        base = url or output.as_uri()

        def check(route: Any) -> None:
            asked = route.request.url
            if asked.startswith((f"{base}/", "data:")):
                route.continue_()
            else:
                faults.append(f"asked for {asked}")
                route.abort()

        context.route("**/*", check)
        page.on("pageerror", lambda error: faults.append(f"raised {error}"))
        page.on("console", lambda said: said.type == "error" and faults.append(said.text))
        page.goto(f"{base}/report/index.html{address}")
        page.locator("#found").filter(has_not_text="Loading").wait_for()
        page.faults = faults
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not faults
