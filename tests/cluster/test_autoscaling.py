"""A cluster that begins with its head alone and grows to what a render asks for, by Ray's own
autoscaler with nodes that are processes here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.cluster.nodes import HEAD, RAY, environment, free_port, wait_for

# Of one kind each, as in cluster/ray/aws.yaml and cluster/kuberay/raycluster.yaml.
TYPES = {
    "denoisers": {"CPU": 1, "denoiser": 1},
    "coordinators": {"CPU": 2, "coordinator": 2},
    "decoders": {"CPU": 1, "decoder": 1},
}

NO_COMMANDS = (
    *("cluster_synced_files", "rsync_exclude", "rsync_filter"),
    *("initialization_commands", "setup_commands"),
    *("head_setup_commands", "head_start_ray_commands"),
    *("worker_setup_commands", "worker_start_ray_commands"),
)
"""Of nodes that are reached by SSH."""


@pytest.fixture
def growing(tmp_path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Address and environment of a cluster whose head has no CPU, and which may add nodes."""
    port, agent = free_port(), free_port()
    node_types = {
        name: {"resources": offered, "node_config": {}, "min_workers": 0, "max_workers": 2}
        for name, offered in TYPES.items()
    }
    config = {
        **{key: [] for key in NO_COMMANDS},
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        "cluster_name": "growing",
        "max_workers": 6,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": f"{HEAD}:{port}",
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            **node_types,
        },
        "head_node_type": "ray.head.default",
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": 10,
    }
    file = tmp_path / "autoscaler.json"
    file.write_text(json.dumps(config))
    own = environment() | {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    command = [str(RAY), "start", "--head", "--block", "--num-cpus=0", f"--port={port}"]
    command += [f"--node-ip-address={HEAD}", f"--autoscaling-config={file}"]
    command += ["--include-dashboard=false", f"--dashboard-agent-listen-port={agent}"]
    # Seconds, after which nodes that were added notice that the head is gone.
    own["RAY_gcs_rpc_server_reconnect_timeout_s"] = "2"
    head = subprocess.Popen(
        command,
        env=own,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(HEAD, port, head)
        yield f"{HEAD}:{port}", own
    finally:
        nodes = psutil.Process(head.pid).children(recursive=True)
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(head.pid, signal.SIGKILL)
            head.wait()
        _, alive = psutil.wait_procs(nodes, 10)
        for process in alive:
            process.kill()


@pytest.mark.slow
def test_nodes_come_for_the_actors_that_wait_for_them(
    growing: tuple[str, dict[str, str]], tiny_pipeline: Path, tmp_path: Path
) -> None:
    address, own = growing
    command = [sys.executable, "-m", "glc_ray.render", "--address", address]
    command += ["--pipeline", str(tiny_pipeline), "--workers", "2"]
    command += ["--output", str(tmp_path / "out"), "--set=resources.wait_for_nodes=true"]
    command += ["--set=resources.coordinators.num_cpus=1"]
    command += [f"--set=resources.{kind}.custom.{kind[:-1]}=1" for kind in TYPES]
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Waiting for nodes." in done.stderr
    look = "import json, ray\n"
    look += f"ray.init({address!r}, logging_level=50)\n"
    look += "print(json.dumps([node['Resources'] for node in ray.nodes() if node['Alive']]))"
    told = subprocess.run(
        [sys.executable, "-c", look],
        env=own,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    nodes = json.loads(told.stdout.splitlines()[-1])
    # One denoiser a node, and no node more than there is work for.
    count = {name: sum(name[:-1] in node for node in nodes) for name in TYPES}
    assert count == {"denoisers": 2, "coordinators": 1, "decoders": 1}
