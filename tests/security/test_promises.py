"""SECURITY.md tells of tests that there are, and the code has none of what it says it has not."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import ray

from glc_ray.config import ResourcesSpec
from glc_ray.protocols import UserError
from glc_ray.runtime import cluster

ROOT = Path(__file__).parents[2]
PACKAGE = sorted((ROOT / "glc_ray").rglob("*.py"))
FORBIDDEN = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "pickle.load",
    "pickle.loads",
    "cloudpickle.loads",
    "torch.load",
    "yaml.load",
    "yaml.unsafe_load",
    "yaml.safe_load",
    "tempfile.mktemp",
    "pq.read_table",
}


OF_PACKAGES = ROOT / "glc_ray" / "evaluation" / "scores"
"""Its networks' weights come with packages, as files of torch."""


def test_every_promise_has_its_tests() -> None:
    told = set(re.findall(r"`(test_\w+)`", (ROOT / "SECURITY.md").read_text()))
    found = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert told
    assert told <= found, told - found
    own = {
        name
        for file in Path(__file__).parent.glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.MULTILINE)
    }
    assert own - told == {"test_every_promise_has_its_tests"}


@pytest.mark.parametrize("file", PACKAGE, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_code_has_none_of(file: Path) -> None:
    text = file.read_text()
    assert "0.0.0.0" not in text  # noqa: S104
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name == "torch.load" and file.parent == OF_PACKAGES:
                # From packages that the user installed, whose code runs anyway; tensors alone.
                told = {one.arg: ast.unparse(one.value) for one in node.keywords}
                assert told.get("weights_only") == "True", f"line {node.lineno}"
                continue
            assert name not in FORBIDDEN, f"line {node.lineno}"
            assert name != "pq.ParquetFile" or file.name == "parquet.py", f"line {node.lineno}"
            given = {one.arg: ast.unparse(one.value) for one in node.keywords}
            assert given.get("shell", "False") == "False", f"line {node.lineno}"
            assert given.get("trust_remote_code", "False") == "False", f"line {node.lineno}"
            if name.endswith(".from_pretrained"):
                is_safe = given.get("use_safetensors") == "True"
                assert is_safe or "trust_remote_code" in given, f"line {node.lineno}"


@pytest.mark.parametrize(
    "name",
    [
        "compose.yaml",
        "ray/aws.yaml",
        "ray/on-premises.yaml",
        "slurm/glc-ray.sbatch",
        "kuberay/raycluster.yaml",
        "kuberay/rayjob.yaml",
    ],
)
def test_every_cluster_file_asks_for_a_token(name: str) -> None:
    text = (ROOT / "cluster" / name).read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    assert re.search(r"RAY_AUTH_MODE[=:] ?token|authOptions:\s+mode: token", lines)


@pytest.mark.parametrize("mode", ["disabled", "Disabled", "", None, "token", "TOKEN"])
def test_a_cluster_of_our_own_asks_for_a_token(
    mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's ports listen on all addresses, whatever its node's address is."""
    asked: dict[str, Any] = {}
    monkeypatch.setattr(ray, "init", lambda **options: asked.update(options))
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    if mode not in (None, "token", "TOKEN"):
        with pytest.raises(UserError, match=f"^RAY_AUTH_MODE={mode}: whoever reaches this machi"):
            cluster._start_here(ResourcesSpec())
        assert not asked
        return
    cluster._start_here(ResourcesSpec())
    assert asked["address"] == "local"
    assert asked["_node_ip_address"].startswith("127.")
    assert asked["include_dashboard"] is False
