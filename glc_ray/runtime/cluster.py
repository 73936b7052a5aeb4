"""Connecting to Ray: a running cluster where there is one, a local one otherwise."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from glc_ray.config import PipelineSpec, ResourcesSpec
from glc_ray.protocols import ModelFacts, UserError

_LOG = logging.getLogger(__name__)
_KNOCK_S = 10.0
_LATENTS_HELD = 12
"""Times its latents that a coordinator holds at most: fusion, x̂0, refinement, a multistep solver's
memory, and a checkpoint that is being written."""
_LOOPBACK = "127.0.0.2"
"""Ray rewrites 127.0.0.1 to the machine's own address, which others can reach."""

Need = tuple[str, int, float, float]
"""Kind of actor, how many, CPUs and GPUs of each."""


@contextmanager
def connected(
    address: str | None, pipeline: PipelineSpec, *, denoises: bool = True
) -> Iterator[None]:
    """Be connected to Ray for a while.

    Args:
        address: of a running cluster, ``auto`` or ``HOST:PORT``; ``local`` always starts one
            here; None uses the one that RAY_ADDRESS names or that runs here, and else starts one.
            Without effect where this process is connected already.
        pipeline: what must fit.
        denoises: denoisers are among it.

    Raises:
        UserError: nothing runs at ``address``, or the cluster has no room for the actors.
    """
    resources = pipeline.resources
    if not denoises:
        none = resources.denoisers.model_copy(update={"num_cpus": 0, "num_gpus": 0})
        resources = resources.model_copy(update={"denoisers": none})
    if ray.is_initialized():
        _check_room(resources)
        yield
        return
    _connect(address, resources)
    try:
        _check_room(resources)
        yield
    finally:
        ray.shutdown()


def _connect(address: str | None, resources: ResourcesSpec) -> None:
    wanted = address or os.environ.get("RAY_ADDRESS") or _running_here() or "local"
    if wanted == "local":
        _start_here(resources)
        return
    source = "--address" if address else "RAY_ADDRESS"
    if "://" in wanted:
        raise UserError(
            f"{source} {wanted}: glc-ray runs within a cluster, not through a client or the jobs "
            "API; give HOST:PORT from one of its nodes, or submit it there with "
            "`ray job submit -- python -m glc_ray.render`"
        )
    try:
        _knock(wanted)
        ray.init(address=wanted, logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"{source} {wanted}: no Ray cluster answers there ({_first_line(error)}); "
            "start one with `ray start --head`, or leave --address out to start one here"
        ) from None


def _start_here(resources: ResourcesSpec) -> None:
    """A private cluster with a logical CPU for whatever the actors ask for."""
    num_cpus = sum(count * cpus for _, count, cpus, _ in _needs(resources))
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, int(num_cpus + 0.999)),
        include_dashboard=False,
        _node_ip_address=_LOOPBACK,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )


def _knock(address: str) -> None:
    """Find out in seconds whether anybody listens at HOST:PORT: Ray tries for minutes.

    Raises:
        OSError: nobody does.
    """
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _running_here() -> str | None:
    """The cluster that `ray start` left on this machine, if it still answers."""
    from ray._private.services import canonicalize_bootstrap_address

    address = canonicalize_bootstrap_address(None)
    try:
        _knock(address or "")
    except OSError:
        return None
    return address


def _needs(resources: ResourcesSpec) -> list[Need]:
    denoisers, decoders = resources.denoisers, resources.decoders
    coordinators = resources.coordinators
    return [
        ("denoisers", denoisers.count, denoisers.num_cpus, denoisers.num_gpus),
        ("coordinators", coordinators.count, coordinators.num_cpus, 0),
        ("decoders", decoders.count, decoders.num_cpus, decoders.num_gpus),
    ]


@dataclass
class _Node:
    """What is free on one node."""

    cpus: float
    gpus: list[float]
    """Share of each GPU: a fraction is taken from a single one."""

    def take(self, cpus: float, gpus: float) -> bool:
        """Place one actor, if it fits."""
        share, devices = (gpus, 1) if gpus < 1 else (1.0, int(gpus))
        chosen = [i for i, free in enumerate(self.gpus) if free >= share][: devices if gpus else 0]
        if self.cpus < cpus or (gpus and len(chosen) < devices):
            return False
        self.cpus -= cpus
        for device in chosen:
            self.gpus[device] -= share
        return True


def _check_room(resources: ResourcesSpec) -> None:
    """Whether all actors can be placed: an actor that waits for room is silent, for ever."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [_Node(node.get("CPU", 0.0), [1.0] * int(node.get("GPU", 0))) for node in alive]
    have = "; ".join(f"{node.cpus:g} CPU, {len(node.gpus)} GPU" for node in nodes)
    missing = _unplaced(_needs(resources), nodes)
    if not missing:
        return
    text = (
        f"resources: no room for {missing}; the cluster's nodes have {have}. Lower --workers "
        "(resources.denoisers.count) or the shares (such as resources.denoisers.num_gpus), or add "
        "nodes"
    )
    if not resources.wait_for_nodes:
        raise UserError(
            f"{text}; where the cluster grows by itself, --set resources.wait_for_nodes=true"
        )
    _LOG.warning("%s. Waiting for nodes.", text)


def videos_at_once(pipeline: PipelineSpec, facts: ModelFacts, num_videos: int) -> int:
    """How many videos are denoised at once: coordinators, as far as their memory goes."""
    coordinators = pipeline.resources.coordinators
    latents_bytes = 4 * math.prod(facts.latents_shape(pipeline.video.num_frames))
    memory = coordinators.memory_gb
    if memory is None:
        largest = max(node["Resources"].get("memory", 0.0) for node in ray.nodes())
        memory = largest / 2 / 1e9
    room = int(memory * 1e9 / (_LATENTS_HELD * latents_bytes))
    if room < min(coordinators.count, num_videos):
        _LOG.warning(
            "resources.coordinators: memory of %.3g GB has room for %d video(s) of this length at "
            "once, not %d; set resources.coordinators.memory_gb for more",
            memory,
            max(1, room),
            coordinators.count,
        )
    return max(1, min(coordinators.count, num_videos, room))


def _unplaced(needs: list[Need], nodes: list[_Node]) -> str:
    """What finds no node, placing the largest first; empty where everything fits."""
    missing = []
    for kind, count, cpus, gpus in sorted(needs, key=lambda need: (-need[3], -need[2])):
        left = sum(not any(node.take(cpus, gpus) for node in nodes) for _ in range(count))
        if left:
            missing.append(f"{left} of {count} {kind} of {cpus:g} CPU and {gpus:g} GPU")
    return ", ".join(missing)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
