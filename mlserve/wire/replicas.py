"""What a server of several replicas says of them: the JSON of GET /mlserve/replicas.

The server writes it with `ReplicaSet.to_json`; `status`, `ps` and `models use` read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class ReplicaState(StrEnum):
    """What a replica does. A lost one has not been heard of, and gets no requests."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    LOST = "lost"


class RollingState(StrEnum):
    """How far a change of version has come. Of a refused one, every replica has gone back."""

    ROLLING = "rolling"
    DONE = "done"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class ReplicaVersion:
    """A version on a replica; `state` is that of TensorFlow Serving's API, such as AVAILABLE."""

    version: int
    state: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Replica:
    """One replica, as it last reported.

    `node` is the machine, `address` the replica's own REST port as `host:port`. `in_flight` are
    requests that run or wait, `wait_seconds` is how long a new one is expected to wait, and
    `refused` and `requests` count since the replica started. `pid` is its server's process on the
    node, 0 if none runs.
    """

    id: str
    node: str
    address: str
    state: ReplicaState
    versions: tuple[ReplicaVersion, ...] = ()
    in_flight: int = 0
    wait_seconds: float = 0.0
    refused: int = 0
    requests: int = 0
    pid: int = 0

    @property
    def available(self) -> frozenset[int]:
        """The versions that it answers with."""
        return frozenset(each.version for each in self.versions if each.state == "AVAILABLE")


@dataclass(frozen=True, slots=True)
class Rolling:
    """A change to a version, replica by replica: `done` of `of` have it. `reason`: why refused.

    `number` tells one change from the next: it counts them.
    """

    version: int
    state: RollingState
    done: int
    of: int
    reason: str = ""
    number: int = 0

    def __str__(self) -> str:
        """Return `rolling, 1 of 4 replicas have it`, or why it was refused."""
        if self.state is RollingState.REFUSED:
            return f"refused: {self.reason}"
        return f"{self.state}, {self.done} of {self.of} replicas have it"


@dataclass(frozen=True, slots=True)
class IngressCounts:
    """Requests since the start: all, asked again at another replica, hedged, refused to users."""

    requests: int = 0
    redispatched: int = 0
    hedged: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Scale:
    """How many replicas there may be, and how many are wanted now."""

    least: int
    most: int
    wanted: int


@dataclass(frozen=True, slots=True)
class ReplicaSet:
    """The replicas of a server. `wanted_version` None: each serves its latest version."""

    name: str
    model: str
    replicas: tuple[Replica, ...]
    scale: Scale
    wanted_version: int | None = None
    rolling: Rolling | None = None
    ingress: IngressCounts = IngressCounts()

    @property
    def ready(self) -> tuple[Replica, ...]:
        """The replicas that get requests."""
        return tuple(each for each in self.replicas if each.state is ReplicaState.READY)

    def __str__(self) -> str:
        """Return the whole in a line: `3 of 4 ready on 2 nodes, 12 in flight`."""
        nodes = len({each.node for each in self.ready})
        on = f" on {nodes} {'node' if nodes == 1 else 'nodes'}" if nodes else ""
        in_flight = sum(each.in_flight for each in self.ready)
        return f"{len(self.ready)} of {self.scale.wanted} ready{on}, {in_flight} in flight"

    def to_json(self) -> dict[str, Any]:
        """Return data for `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ReplicaSet:
        """Read what `to_json` wrote, also in another version of mlserve.

        Raises KeyError, TypeError, ValueError or AttributeError for data of another shape.
        """
        wanted, rolling = data.get("wanted_version"), data.get("rolling")
        ingress = data.get("ingress") or {}
        return cls(
            name=str(data["name"]),
            model=str(data["model"]),
            replicas=tuple(map(_replica, data["replicas"])),
            scale=Scale(**{key: int(data["scale"][key]) for key in ("least", "most", "wanted")}),
            wanted_version=None if wanted is None else int(wanted),
            rolling=None if rolling is None else _rolling(rolling),
            ingress=IngressCounts(
                *(
                    int(ingress.get(key, 0))
                    for key in ("requests", "redispatched", "hedged", "refused")
                )
            ),
        )


def _replica(data: Mapping[str, Any]) -> Replica:
    return Replica(
        id=str(data["id"]),
        node=str(data["node"]),
        address=str(data["address"]),
        state=ReplicaState(data["state"]),
        versions=tuple(
            ReplicaVersion(int(each["version"]), str(each["state"]), str(each.get("error", "")))
            for each in data.get("versions", ())
        ),
        in_flight=int(data.get("in_flight", 0)),
        wait_seconds=float(data.get("wait_seconds", 0.0)),
        refused=int(data.get("refused", 0)),
        requests=int(data.get("requests", 0)),
        pid=int(data.get("pid", 0)),
    )


def _rolling(data: Mapping[str, Any]) -> Rolling:
    return Rolling(
        version=int(data["version"]),
        state=RollingState(data["state"]),
        done=int(data["done"]),
        of=int(data["of"]),
        reason=str(data.get("reason", "")),
        number=int(data.get("number", 0)),
    )
