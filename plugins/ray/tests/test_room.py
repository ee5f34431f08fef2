"""Whether a cluster has room, and what is missing if not."""

from __future__ import annotations

import pytest
from mlserve_ray.room import NodeRoom, require_room, require_room_here

from mlserve.cluster_options import ClusterOptions
from mlserve.errors import Unavailable


def nodes(*cpus: float, free: float | None = None, gpus: float = 0.0) -> list[NodeRoom]:
    free_in_cluster = {"CPU": sum(cpus) if free is None else free, "GPU": gpus}
    has = [{"CPU": each, "GPU": gpus} for each in cpus]
    return [NodeRoom(f"10.0.0.{n}", each, free_in_cluster) for n, each in enumerate(has)]


def test_room_for_all() -> None:
    require_room(nodes(2, 2), ClusterOptions(replicas="4"))
    require_room(nodes(1), ClusterOptions(replicas="4", cpus_per_replica=0.25))
    require_room(nodes(2), ClusterOptions(replicas="2..9"))


@pytest.mark.parametrize(
    ("there", "options", "message"),
    [
        (nodes(2, 2), ClusterOptions(replicas="2", cpus_per_replica=3), "no node .* has 3 CPUs"),
        (nodes(2), ClusterOptions(gpus_per_replica=1), "no node .* has 1 GPU .* has 0 GPUs"),
        (
            nodes(3, 3),
            ClusterOptions(replicas="4", cpus_per_replica=2),
            "with 6 CPUs, .* room for 2",
        ),
        (
            nodes(4, free=1),
            ClusterOptions(replicas="2"),
            "of 1 CPU: 1 CPU of it are free",
        ),
    ],
)
def test_what_is_missing_is_named(
    there: list[NodeRoom], options: ClusterOptions, message: str
) -> None:
    with pytest.raises(Unavailable, match=message):
        require_room(there, options)


def test_room_on_this_machine_is_known_before_ray_is_started() -> None:
    require_room_here(ClusterOptions(replicas="1..9999", gpus_per_replica=1))
    with pytest.raises(Unavailable, match="no room for 9999 replicas of 1 CPU: it has 1 node"):
        require_room_here(ClusterOptions(replicas="9999"))
