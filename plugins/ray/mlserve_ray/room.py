"""Whether a cluster has room for the replicas, and if not, what is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mlserve.cluster_options import ClusterOptions
from mlserve.errors import Unavailable, counted
from mlserve.options import flag_of
from mlserve.system import usable_cpus

_FLAGS = {"CPU": "cpus_per_replica", "GPU": "gpus_per_replica"}


@dataclass(frozen=True, slots=True)
class NodeRoom:
    """A node's address, what it has, and what is free in the whole cluster, by resource."""

    address: str
    has: Mapping[str, float]
    free_in_cluster: Mapping[str, float]


def require_room_here(options: ClusterOptions) -> None:
    """Raise Unavailable if this machine has too few CPUs for the least number of replicas."""
    cpus = {"CPU": float(usable_cpus())}
    require_room([NodeRoom("this machine", cpus, cpus)], replace(options, gpus_per_replica=0.0))


def require_room(nodes: Sequence[NodeRoom], options: ClusterOptions) -> None:
    """Raise Unavailable unless the least number of replicas fits, naming what is missing.

    It goes by what the nodes have and by what is free in all of them together: how that is spread
    over the nodes is known to Ray only.
    """
    needed = {"CPU": options.cpus_per_replica, "GPU": options.gpus_per_replica}
    needed = {name: amount for name, amount in needed.items() if amount > 0}
    for name, amount in needed.items():
        largest = max((node.has.get(name, 0.0) for node in nodes), default=0.0)
        if largest < amount:
            raise _no_room(
                f"no node of the cluster has {_shown(amount, name)} for a replica: the largest has "
                f"{_shown(largest, name)}",
                name,
            )
    fits = sum(_fits(node, needed) for node in nodes)
    if fits < options.least:
        scarce = min(needed, key=lambda name: sum(n.has.get(name, 0) for n in nodes) / needed[name])
        has = sum(node.has.get(scarce, 0.0) for node in nodes)
        raise _no_room(
            f"the cluster has no room for {counted(options.least, 'replica')} of "
            f"{_shown(needed[scarce], scarce)}: it has {counted(len(nodes), 'node')} with "
            f"{_shown(has, scarce)}, which is room for {fits}",
            scarce,
        )
    for name, amount in needed.items():
        free = nodes[0].free_in_cluster.get(name, 0.0)
        if free < amount * options.least:
            raise _no_room(
                f"the cluster has no room for {counted(options.least, 'replica')} of "
                f"{_shown(amount, name)}: {_shown(free, name)} of it are free",
                name,
            )


def _fits(node: NodeRoom, needed: Mapping[str, float]) -> int:
    """Return how many replicas an empty node has room for."""
    return min(int(node.has.get(name, 0.0) / amount + 1e-9) for name, amount in needed.items())


def _shown(amount: float, name: str) -> str:
    return f"{amount:g} {name}" + ("" if amount == 1 else "s")


def _no_room(message: str, resource: str) -> Unavailable:
    flag = flag_of(_FLAGS[resource])
    return Unavailable(
        message, hint=f"give fewer --replicas, a smaller {flag}, or the cluster more nodes"
    )
