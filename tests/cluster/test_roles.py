"""A head without work and nodes for each kind of actor, as on the clusters of ``cluster/``."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.cluster.nodes import RAY, Nodes, nodes

KINDS = {"denoisers": "denoiser", "coordinators": "coordinator", "decoders": "decoder"}
ROLES = [f"--set=resources.{kind}.custom.{role}=1" for kind, role in KINDS.items()]


def submit(cluster: Nodes, *arguments: str) -> str:
    """Submit a render and wait for its end; what it said."""
    command = [str(RAY), "job", "submit", "--address", cluster.dashboard, "--"]
    command += [sys.executable, "-m", "glc_ray.render", *arguments]
    done = subprocess.run(
        command, env=cluster.environment, capture_output=True, text=True, timeout=400
    )
    return done.stdout + done.stderr


def ask(url: str, token: str | None = None) -> bytes:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.read()


def places(cluster: Nodes) -> dict[str, set[str]]:
    """Node addresses by kind of actor, of all actors that ever ran."""
    token = cluster.environment["RAY_AUTH_TOKEN"]
    found: dict[str, set[str]] = {}
    address = {
        node["node_id"]: node["node_ip"]
        for node in json.loads(ask(f"{cluster.dashboard}/api/v0/nodes", token))["data"]["result"][
            "result"
        ]
    }
    answer = json.loads(ask(f"{cluster.dashboard}/api/v0/actors?detail=true", token))
    for actor in answer["data"]["result"]["result"]:
        if actor["node_id"] in address:
            found.setdefault(actor["class_name"], set()).add(address[actor["node_id"]])
    return found


@pytest.mark.slow
def test_each_kind_of_actor_runs_on_its_own_nodes(tiny_pipeline: Path, tmp_path: Path) -> None:
    arguments = ["--pipeline", str(tiny_pipeline), "--workers", "2", *ROLES]
    arguments += ["--set", "resources.coordinators.num_cpus=2", "--output", str(tmp_path / "out")]
    with nodes(1, num_cpus=0) as cluster:
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(f"{cluster.dashboard}/api/v0/nodes")
        cluster.add(2, denoiser=2)
        said = submit(cluster, *arguments)
        assert (
            "no room for 2 of 2 coordinators of 2 CPU, 0 GPU and 1 coordinator, 1 of 1 decoders of "
            "0 CPU, 0 GPU and 1 decoder; the cluster's nodes have 0 CPU, 0 GPU; "
            "2 CPU, 0 GPU, 2 denoiser"
        ) in said
        cluster.add(4, coordinator=2)
        cluster.add(1, decoder=1)
        said = submit(cluster, *arguments)
        assert len(list((tmp_path / "out" / "videos").iterdir())) == 1, said
        where = places(cluster)
    assert where["Denoiser"] == {"127.0.0.3"}
    assert where["Coordinator"] == {"127.0.0.4"}
    (decoder,) = (where[kind] for kind in where if "DecodeEncodeStage" in kind)
    assert decoder == {"127.0.0.5"}
    assert where["Pool"] == where["Board"] == {"127.0.0.2"}
