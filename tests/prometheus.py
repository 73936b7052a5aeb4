"""A real Prometheus and its promtool, where ``make prometheus`` has fetched them."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
_FETCHED = ROOT / "build" / "prometheus" / "usr" / "bin"


def binary(name: str) -> str:
    """Path of ``prometheus`` or ``promtool``; skips the test where there is none."""
    found = shutil.which(name, path=str(_FETCHED)) or shutil.which(name)
    if found is None:
        pytest.skip(f"no {name}: `make prometheus` fetches it (Debian, needs the network)")
    return found


class Prometheus:
    """A server that runs."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def names(self) -> set[str]:
        """Of all metrics that it has seen."""
        return set(self._get("label/__name__/values"))

    def labels(self, series: str) -> set[str]:
        """Of the series of one name."""
        found = self._get("series", {"match[]": series, "start": "0"})
        return {label for one in found for label in one}

    def values(self, query: str, start: float, end: float) -> list[list[float]]:
        """Of each series of a query, whatever is no NaN."""
        span = {"query": query, "start": str(start), "end": str(end), "step": "1"}
        found = self._get("query_range", span)["result"]
        series = [[float(value) for _, value in one["values"]] for one in found]
        return [kept for one in series if (kept := [value for value in one if value == value])]

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _get(self, path: str, arguments: dict[str, str] | None = None) -> Any:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(arguments or {})}"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return json.load(answer)["data"]


@contextmanager
def prometheus(config: Path, folder: Path, port: int) -> Iterator[Prometheus]:
    """A server with ``config`` that keeps what it has in ``folder``, on loopback."""
    command = [binary("prometheus"), f"--config.file={config}"]
    command += [f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        server = Prometheus(port)
        deadline = time.monotonic() + 60
        while not server.is_ready():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail((folder / "prometheus.log").read_text())
            time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        process.wait(30)
