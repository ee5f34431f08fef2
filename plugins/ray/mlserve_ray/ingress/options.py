"""What an ingress is told, and what it tells: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from mlserve.settings import DEFAULT_HOST, ServerSettings


class EndpointState(StrEnum):
    """Whether a replica gets requests: one that drains ends those that it has."""

    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of one replica. `host` is an IP address."""

    id: str
    host: str
    grpc_port: int
    rest_port: int
    state: EndpointState = EndpointState.READY


@dataclass(frozen=True, slots=True)
class Listen:
    """Where clients connect: an IP address or a name of this machine, and two ports; 0 is any."""

    host: str = DEFAULT_HOST
    grpc_port: int = 0
    rest_port: int = 0


@dataclass(frozen=True, slots=True)
class IngressOptions:
    """How requests are passed on.

    `settings` are the server's: its TLS files, its limits. A model that is not idempotent is never
    asked twice for a request that a replica may have begun. `hedge` is the share of answers, such
    as 0.99, after whose time a second replica is asked; None: never. `workers` are Envoy's threads;
    None: one for each CPU, at most `MOST_WORKERS`.
    """

    settings: ServerSettings = field(default_factory=ServerSettings)
    is_idempotent: bool = True
    hedge: float | None = None
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class IngressCounters:
    """What has happened since the start, restarts of Envoy included.

    `requests` are those to the model that have ended, not those about it; `refused` those of them
    that ended with 429 or 503 (RESOURCE_EXHAUSTED, UNAVAILABLE). `redispatched` were asked of
    another replica after a refusal or a lost connection, and `hedged` beside one that took long.
    """

    requests: int = 0
    refused: int = 0
    redispatched: int = 0
    hedged: int = 0

    def __add__(self, other: IngressCounters) -> IngressCounters:
        return IngressCounters(
            self.requests + other.requests,
            self.refused + other.refused,
            self.redispatched + other.redispatched,
            self.hedged + other.hedged,
        )


MOST_WORKERS = 8
