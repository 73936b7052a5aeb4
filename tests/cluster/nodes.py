"""A cluster of several Ray nodes on loopback addresses of this machine, and ways to hurt it."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

RAY = Path(sys.executable).with_name("ray")
HEAD = "127.0.0.2"


def environment() -> dict[str, str]:
    """Of one cluster: a token of its own, and nodes whose death is noticed in seconds."""
    return {
        **os.environ,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_health_check_initial_delay_ms": "1000",
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
        "HF_HUB_OFFLINE": "1",
    }


def free_port(host: str = HEAD) -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


@dataclass
class Nodes:
    """Running nodes; the first is the head."""

    environment: dict[str, str]
    address: str
    dashboard: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def add(self, num_cpus: int = 2, **custom: float) -> None:
        """Start one more node, with custom resources."""
        host = f"127.0.0.{len(self.processes) + 2}"
        command = [str(RAY), "start", "--block", f"--node-ip-address={host}"]
        command += [f"--num-cpus={num_cpus}", f"--address={self.address}"]
        command += [f"--resources={json.dumps(custom)}"]
        command += [f"--dashboard-agent-listen-port={free_port(host)}"]
        self._start(command)
        # One after the other: nodes of one machine find names for their sockets by looking.
        self._wait_for_nodes()

    def replace(self, node: int) -> None:
        """Start a node in place of one that was killed."""
        os.killpg(self.processes[node].pid, signal.SIGKILL)
        self.processes[node].wait()
        del self.processes[node]
        self.add()

    def start_head(self, num_cpus: int = 2, *options: str) -> None:
        """Start the head, with a dashboard that takes jobs; ``options`` are further ones."""
        port, dashboard = self.address.rpartition(":")[2], self.dashboard.rpartition(":")[2]
        command = [str(RAY), "start", "--head", "--block", f"--node-ip-address={HEAD}"]
        command += [f"--num-cpus={num_cpus}", f"--port={port}"]
        command += [f"--dashboard-host={HEAD}", f"--dashboard-port={dashboard}"]
        command += [f"--dashboard-agent-listen-port={free_port()}", *options]
        self._start(command)
        wait_for(HEAD, int(dashboard), self.processes[0])

    def _start(self, command: list[str]) -> None:
        process = subprocess.Popen(
            command,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.processes.append(process)

    def raylet(self, node: int) -> psutil.Process | None:
        """The raylet of a node, if it lives."""
        for process in _children(self.processes[node].pid):
            if process.name() == "raylet":
                return process
        return None

    def actors(self, kind: str) -> list[psutil.Process]:
        """Processes of all nodes that run an actor whose class is called ``kind``."""
        found = []
        for node in range(len(self.processes)):
            raylet = self.raylet(node)
            for process in _children(raylet.pid) if raylet is not None else ():
                try:
                    title = " ".join(process.cmdline())
                except psutil.Error:
                    continue
                if title.startswith("ray::") and kind in title:
                    found.append(process)
        return found

    def _wait_for_nodes(self) -> None:
        """Until all have joined."""
        count = len(self.processes)
        look = f"import ray, time\nray.init({self.address!r}, logging_level=50)\n"
        look += f"while sum(n['Alive'] for n in ray.nodes()) < {count}: time.sleep(0.1)"
        subprocess.run([sys.executable, "-c", look], env=self.environment, check=True, timeout=120)

    def stop(self) -> None:
        """End all nodes."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@contextmanager
def nodes(count: int, num_cpus: int = 2) -> Iterator[Nodes]:
    """A cluster of ``count`` nodes."""
    cluster = Nodes(environment(), f"{HEAD}:{free_port()}", f"http://{HEAD}:{free_port()}")
    try:
        cluster.start_head(num_cpus)
        for _ in range(count - 1):
            cluster.add(num_cpus)
        yield cluster
    finally:
        cluster.stop()


def _children(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def wait_for(host: str, port: int, process: subprocess.Popen[bytes]) -> None:
    """Until a process that was started listens there."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex((host, port)) == 0:
                return
        time.sleep(0.2)
    raise TimeoutError("the cluster does not start")
