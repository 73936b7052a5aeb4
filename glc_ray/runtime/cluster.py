"""Connecting to Ray: a running cluster where there is one, a local one otherwise."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import ray
from ray._private import worker

from glc_ray.config import PipelineSpec, ResourcesSpec
from glc_ray.protocols import ModelFacts, UserError

_LOG = logging.getLogger(__name__)
_KNOCK_S = 10.0
_LATENTS_HELD = 12
"""Times its latents that a coordinator holds at most: fusion, x̂0, refinement, a multistep solver's
memory, and a checkpoint that is being written."""
_LOOPBACK = "127.0.0.2"
"""Of a node of our own, whatever network there is; Ray rewrites 127.0.0.1 to the machine's own
address. Its ports listen on all addresses all the same."""
_AUTH_MODE = "RAY_AUTH_MODE"


@dataclass(frozen=True)
class _Need:
    """Actors of a kind, and what each takes of a node."""

    kind: str
    count: int
    cpus: float
    gpus: float = 0
    custom: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        amounts = {"CPU": self.cpus, "GPU": self.gpus, **self.custom}
        *first, last = [f"{amount:g} {name}" for name, amount in amounts.items()]
        return f"{', '.join(first)} and {last}"


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
        nothing = {"num_cpus": 0, "num_gpus": 0, "custom": {}}
        none = resources.denoisers.model_copy(update=nothing)
        resources = resources.model_copy(update={"denoisers": none})
    with connected_with(address, resources):
        yield


@contextmanager
def connected_with(address: str | None, resources: ResourcesSpec) -> Iterator[None]:
    """As ``connected``, with what must fit."""
    if ray.is_initialized():
        _check_room(resources)
        yield
        return
    with _ray_keeps_its_words():
        _connect(address, resources)
        try:
            _check_room(resources)
            yield
        finally:
            ray.shutdown()


@contextmanager
def _ray_keeps_its_words() -> Iterator[None]:
    """Ray prints every death and every repeated call of an actor into the standard output of who
    started it, whatever ``log_to_driver`` says. They are in its logs; who renders reads our lines.
    """
    before = getattr(worker, "_worker_logs_enabled", True)
    worker._worker_logs_enabled = False
    try:
        yield
    finally:
        worker._worker_logs_enabled = before


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
    """A private cluster with a logical CPU and a role for whatever the actors ask for."""
    _check_asks_for_token()
    needs = _needs(resources)
    num_cpus = sum(need.count * need.cpus for need in needs)
    custom: Counter[str] = Counter()
    for need in needs:
        custom.update({name: math.ceil(need.count * own) for name, own in need.custom.items()})
    ray.init(
        address="local",
        num_cpus=max(os.cpu_count() or 1, int(num_cpus + 0.999)),
        resources=dict(custom),
        include_dashboard=False,
        _node_ip_address=_LOOPBACK,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )


def _check_asks_for_token() -> None:
    """Refuse to start a cluster without a token (UserError): its ports listen on all of the
    machine's addresses and run what they are sent. Where nothing is said, Ray makes a token."""
    mode = os.environ.get(_AUTH_MODE, "token")
    if mode.lower() != "token":
        raise UserError(
            f"{_AUTH_MODE}={mode}: whoever reaches this machine could run code in the Ray cluster "
            f"that is started here; unset it, or set {_AUTH_MODE}=token"
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


def _needs(resources: ResourcesSpec) -> list[_Need]:
    own = {kind: getattr(resources, kind) for kind in ("denoisers", "coordinators", "decoders")}
    previewer = resources.previewer
    return [
        *(
            _Need(kind, of.count, of.num_cpus, getattr(of, "num_gpus", 0), of.custom)
            for kind, of in own.items()
        ),
        _Need("previewer", 1, previewer.num_cpus, previewer.num_gpus, previewer.custom),
    ]


@dataclass
class _Node:
    """What is free on one node."""

    cpus: float
    gpus: list[float]
    """Share of each GPU: a fraction is taken from a single one."""
    others: dict[str, float] = field(default_factory=dict)
    """Of every other resource."""

    def take(self, need: _Need) -> bool:
        """Place one actor, if it fits."""
        gpus = need.gpus
        share, devices = (gpus, 1) if gpus < 1 else (1.0, int(gpus))
        chosen = [i for i, free in enumerate(self.gpus) if free >= share][: devices if gpus else 0]
        if self.cpus < need.cpus or (gpus and len(chosen) < devices):
            return False
        if any(self.others.get(name, 0) < amount for name, amount in need.custom.items()):
            return False
        self.cpus -= need.cpus
        for device in chosen:
            self.gpus[device] -= share
        for name, amount in need.custom.items():
            self.others[name] -= amount
        return True

    def words(self, names: Iterable[str]) -> str:
        """What is free, and of other resources those that are called ``names``."""
        others = [f"{self.others[name]:g} {name}" for name in names if name in self.others]
        return ", ".join([f"{self.cpus:g} CPU", f"{len(self.gpus)} GPU", *others])


def _check_room(resources: ResourcesSpec) -> None:
    """Whether all actors can be placed: an actor that waits for room is silent, for ever."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [_Node(node.get("CPU", 0.0), [1.0] * int(node.get("GPU", 0)), node) for node in alive]
    needs = _needs(resources)
    custom = dict.fromkeys(name for need in needs for name in need.custom)
    have = "; ".join(node.words(custom) for node in nodes)
    missing = _unplaced(needs, nodes)
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


def _unplaced(needs: list[_Need], nodes: list[_Node]) -> str:
    """What finds no node, placing those that only some nodes take and then the largest first; empty
    where everything fits."""
    missing = []
    for need in sorted(needs, key=lambda need: (not need.custom, -need.gpus, -need.cpus)):
        left = sum(not any(node.take(need) for node in nodes) for _ in range(need.count))
        if left:
            missing.append(f"{left} of {need.count} {need.kind} of {need}")
    return ", ".join(missing)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
