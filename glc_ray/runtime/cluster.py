"""Connecting to Ray: a running cluster where there is one, a local one otherwise."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from glc_ray.config import PipelineSpec, ResourcesSpec
from glc_ray.protocols import UserError

_KNOCK_S = 10.0
_LOOPBACK = "127.0.0.2"
"""Ray rewrites 127.0.0.1 to the machine's own address, which others can reach."""


@contextmanager
def connected(address: str | None, pipeline: PipelineSpec) -> Iterator[None]:
    """Be connected to Ray for a while.

    Args:
        address: of a running cluster (``auto``, ``HOST:PORT``, ``ray://HOST:PORT``); ``local``
            always starts one here; None uses a running one and else starts one here.
        pipeline: what must fit.

    Raises:
        UserError: nothing runs at ``address``, or the cluster has no room for one denoiser.
    """
    if ray.is_initialized():
        _check_room(pipeline.resources)
        yield
        return
    _connect(address, pipeline.resources)
    try:
        _check_room(pipeline.resources)
        yield
    finally:
        ray.shutdown()


def _connect(address: str | None, resources: ResourcesSpec) -> None:
    wanted = address or os.environ.get("RAY_ADDRESS")
    if wanted == "local" or (wanted is None and not _is_running()):
        denoisers = resources.denoisers
        ray.init(
            address="local",
            num_cpus=max(os.cpu_count() or 1, int(denoisers.count * denoisers.num_cpus)),
            include_dashboard=False,
            _node_ip_address=_LOOPBACK,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
        return
    try:
        _knock(wanted or "auto")
        ray.init(address=wanted or "auto", logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"--address {wanted}: no Ray cluster answers there ({_first_line(error)}); "
            "start one with `ray start --head`, or leave --address out to start one here"
        ) from None


def _knock(address: str) -> None:
    """Find out in seconds whether anybody listens at HOST:PORT: Ray tries for minutes.

    Raises:
        OSError: nobody does.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCK_S).close()


def _is_running() -> bool:
    """A cluster that `ray start` left on this machine."""
    from ray._private.services import canonicalize_bootstrap_address

    return canonicalize_bootstrap_address(None) is not None


def _check_room(resources: ResourcesSpec) -> None:
    denoisers = resources.denoisers
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    fits = any(
        node.get("CPU", 0) >= denoisers.num_cpus and node.get("GPU", 0) >= denoisers.num_gpus
        for node in nodes
    )
    if not fits:
        have = "; ".join(f"{n.get('CPU', 0):g} CPU, {n.get('GPU', 0):g} GPU" for n in nodes)
        raise UserError(
            f"resources.denoisers: one takes {denoisers.num_cpus:g} CPU and "
            f"{denoisers.num_gpus:g} GPU, but the cluster's nodes have {have}; add a node, or "
            "lower the share with --set resources.denoisers.num_gpus=0"
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
