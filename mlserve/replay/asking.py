"""The server that a replay asks: endpoints that are given, or a version that is served for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlserve.bench.target import require_direct
from mlserve.certify.subjects import subject_named
from mlserve.client.endpoint import Connection, ConnectionOptions, Endpoint, ProtocolName
from mlserve.compare.asking import requests_for, served
from mlserve.errors import Unavailable, UsageError, counted
from mlserve.launch.signals import Interrupts
from mlserve.replay.bodies import Renaming
from mlserve.replay.selection import Traffic

_CONNECTING = 5.0
"""Seconds in which an endpoint has to take a connection."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A server to replay to: a connection for each transport, and the model and version to ask.

    `tokens` are those of the callers that were recorded under these names.
    """

    name: str
    doors: Mapping[ProtocolName, Connection]
    renaming: Renaming = field(default_factory=Renaming)
    tokens: Mapping[str, str] = field(default_factory=dict)

    @property
    def endpoints(self) -> str:
        """The endpoints in words."""
        return " and ".join(str(door.endpoint) for door in self.doors.values())

    def door_of(self, transport: str) -> Connection:
        """Return the connection for requests that came so; those without HTTP may take either."""
        if transport == "rest" and "rest" in self.doors:
            return self.doors["rest"]
        if transport == "grpc" and "grpc" in self.doors:
            return self.doors["grpc"]
        return next(iter(self.doors.values()))

    def require(self, traffic: Traffic) -> None:
        """Raise UsageError if a transport of the traffic has no endpoint, Unavailable without one.

        A port that nobody listens on is told before anything is sent.
        """
        for transport, what in (("grpc", "HOST:PORT"), ("rest", "http://HOST:PORT")):
            count = sum(each.kind.transport == transport for each in traffic.requests)
            if count and transport not in self.doors:
                other = next(iter(self.doors))
                raise UsageError(
                    f"{counted(count, 'recorded request')} came over {transport}, and --against "
                    "names no endpoint for that",
                    hint=f"add --against {what}, or replay the others alone: --protocol {other}",
                )
        for door in self.doors.values():
            _require_listening(door.endpoint)


def given(
    endpoints: Sequence[str],
    options: ConnectionOptions,
    renaming: Renaming,
    tokens: Mapping[str, str],
) -> Asked:
    """Return the server at these endpoints, of which each transport has one at most.

    Raises UsageError.
    """
    doors: dict[ProtocolName, Connection] = {}
    for text in endpoints:
        connection = Connection.to(text, **options)
        protocol = connection.endpoint.protocol
        if protocol in doors:
            raise UsageError(
                f"--against names two endpoints of {protocol}: {doors[protocol].endpoint} and "
                f"{connection.endpoint}",
                hint="give one for gRPC (HOST:PORT) and one for REST (http://HOST:PORT), of the "
                "same server",
            )
        require_direct(connection.endpoint)
        doors[protocol] = connection
    return Asked(
        " and ".join(str(each.endpoint) for each in doors.values()), doors, renaming, tokens
    )


@contextmanager
def started(reference: str, store: Path | None, tell: Callable[[str], None]) -> Iterator[Asked]:
    """Yield a server that is started for a version, and stopped at the end.

    Raises NotFound for a version that is not there, and as `mlserve up` does.
    """
    target = subject_named(reference, store).target
    with (
        Interrupts.watched() as interrupts,
        served([target], requests_for([target]), interrupts, tell) as [found],
    ):
        doors: dict[ProtocolName, Connection] = {"grpc": Connection.to(found.endpoint)}
        if found.rest_endpoint is not None:
            doors["rest"] = Connection.to(found.rest_endpoint)
        yield Asked(target.name, doors, Renaming(target.model, target.version))


def with_token(connection: Connection, token: str | None) -> Connection:
    """Return the connection with another token; None keeps its own."""
    return connection if token is None else replace(connection, token=token)


def _require_listening(endpoint: Endpoint) -> None:
    family = socket.AF_UNIX if endpoint.socket else socket.AF_UNSPEC
    try:
        if family == socket.AF_UNIX:
            with socket.socket(family, socket.SOCK_STREAM) as unix:
                unix.settimeout(_CONNECTING)
                unix.connect(endpoint.socket)
        else:
            socket.create_connection((endpoint.host, endpoint.port), _CONNECTING).close()
    except OSError as error:
        raise Unavailable(
            f"nothing answers at {endpoint}: {error.strerror or error}",
            hint="see what runs with mlserve ps, or start a server with mlserve up",
        ) from error
