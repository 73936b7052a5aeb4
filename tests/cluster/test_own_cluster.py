"""The cluster that a render starts itself, as the network sees it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_OWN = """
import sys
import ray
from glc_ray.config import ResourcesSpec
from glc_ray.runtime.cluster import connected_with

with connected_with("local", ResourcesSpec()):
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
"""
_ASK = """
import sys
from ray._raylet import GcsClient

print(GcsClient(address=sys.argv[1]).internal_kv_keys(b"", None, timeout=30))
"""


def test_a_cluster_of_our_own_refuses_who_has_no_token(tmp_path: Path) -> None:
    """On whichever address it is asked: Ray's ports listen on all of them."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    own["HOME"] = str(tmp_path)

    def ask(address: str, **given: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _ASK, address],
            env={**own, **given},
            capture_output=True,
            text=True,
            timeout=120,
        )

    with subprocess.Popen(
        [sys.executable, "-c", _OWN],
        env=own,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            host, _, port = process.stdout.readline().strip().rpartition(":")
            assert host.startswith("127.")
            token = tmp_path / ".ray" / "auth_token"
            assert len(token.read_text()) >= 32
            for address in (f"{host}:{port}", f"127.0.0.1:{port}"):
                known = ask(address, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token))
                assert known.returncode == 0, known.stderr
                for wrong in (
                    {"RAY_AUTH_MODE": "disabled"},
                    {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
                ):
                    stranger = ask(address, **wrong)
                    assert stranger.returncode != 0
                    assert "AuthenticationError" in stranger.stderr
        finally:
            process.stdin.close()
    if process.returncode:
        pytest.fail(f"the cluster ended with {process.returncode}")
