"""What replicas, the roster and the front tell each other: plain values, the same on every node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from mlserve.wire.replicas import ReplicaVersion

Versions = tuple[int, ...]
"""Version numbers of the model, ascending."""


class ReplicaState(StrEnum):
    """What a replica does.

    Ready: its server answers. Draining: it takes no new requests and ends. Failed: its server ended
    before it was ready. Lost: it has not been heard of for a while.
    """

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Load:
    """What a replica's server has to do.

    `requests`, `refused` and `failed` count since the server's start; a restart begins at 0. `wait`
    is how long a request that came now would wait, in seconds. `busy` is the share of its slots
    that ran something lately, 0 to 1. `answered` are predict requests answered and failed, by
    version.
    """

    in_flight: int = 0
    requests: int = 0
    refused: int = 0
    wait: float = 0.0
    busy: float = 0.0
    answered: Mapping[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Report:
    """What one replica says of itself, several times a second.

    `lacks` are versions that it should serve and whose files it has not found yet, and
    `needs_files` those of them that have to come through the cluster. `reason` and `exit_code` say
    why it failed.
    """

    id: str
    node: str
    state: ReplicaState
    host: str = ""
    grpc_port: int = 0
    rest_port: int = 0
    pid: int = 0
    versions: tuple[ReplicaVersion, ...] = ()
    load: Load = Load()
    lacks: Versions = ()
    needs_files: Versions = ()
    reason: str = ""
    exit_code: int = 0

    @property
    def address(self) -> str:
        """The REST address of its server, `host:port`; empty while it has none."""
        return f"{self.host}:{self.rest_port}" if self.rest_port else ""

    def status_of(self, version: int) -> ReplicaVersion | None:
        """Return the status of that version; None if its server does not know it."""
        return next((each for each in self.versions if each.version == version), None)


@dataclass(frozen=True, slots=True)
class Offer:
    """Where the files of a version are to be had.

    `digest` identifies them (`artifacts.identity`). `base_path` is where they lie on the front's
    machine, and on others that share its disk. `address` is one that `mlserve.remote` reads.
    `chunks` are references into Ray's object store, by file; None until a replica asked for them.
    """

    version: int
    digest: str
    base_path: str
    address: str | None = None
    chunks: Mapping[str, tuple[Any, ...]] | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the front wants of the replicas: which versions each serves, and where they are.

    `default` is for replicas that are not in `by_replica`. `removed` are those that the ingress no
    longer asks.
    """

    default: Versions
    by_replica: Mapping[str, Versions]
    offers: Mapping[int, Offer]
    removed: frozenset[str] = frozenset()

    @property
    def versions(self) -> set[int]:
        """All versions that some replica is to serve."""
        return {*self.default, *(v for versions in self.by_replica.values() for v in versions)}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the roster answers to a report: the versions to serve, and offers of those it lacks.

    `versions` is None while the roster does not know. `may_leave`: the ingress no longer asks it.
    `front_age` is how many seconds ago the front was heard of.
    """

    versions: Versions | None = None
    offers: tuple[Offer, ...] = ()
    may_leave: bool = False
    front_age: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A report, and how many seconds ago it came."""

    report: Report
    age: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the roster knows. `epoch` is another one after the roster was started again.

    `lines` are log lines of replicas since the last snapshot, each with the replica's id, and
    `lost_lines` how many more there were.
    """

    epoch: str
    serial: int
    seen: tuple[Seen, ...]
    lines: tuple[tuple[str, str], ...] = ()
    lost_lines: int = 0
