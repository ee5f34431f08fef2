"""Choose a server's ports: the requested ones, or the next free pair.

The defaults are `mlserve.settings.GRPC_PORT` and `REST_PORT`.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from mlserve.activation import GRPC, NONE_PASSED, REST, PassedSockets
from mlserve.backend import Listen
from mlserve.errors import UsageError
from mlserve.settings import GRPC_PORT, REST_PORT

_PAIRS = 100


@dataclass(frozen=True, slots=True)
class PortRequest:
    """Where a server should listen.

    A port of None is the default one, which may move; 0 is any free one. `passed` are sockets that
    this process was started with, in place of ports to open.
    """

    host: str
    grpc: int | None = None
    rest: int | None = None
    passed: PassedSockets = NONE_PASSED

    @property
    def is_fixed(self) -> bool:
        """Whether there is no other pair of ports to fall back to."""
        return bool(self.passed) or (bool(self.grpc) and bool(self.rest))


def choose(request: PortRequest, reserved: Collection[int] = ()) -> Listen:
    """Return the first pair of ports that is free on the host and not `reserved`.

    Raises UsageError if a requested port is taken or the host is not an address of this machine.
    """
    if request.passed:
        return Listen(request.host, request.grpc or 0, request.rest or 0)
    if request.grpc and request.grpc == request.rest:
        raise UsageError(
            f"port {request.grpc} is given for both gRPC and REST", hint="give two ports"
        )
    for port, option in ((request.grpc, "--grpc-port"), (request.rest, "--rest-port")):
        if port and not _is_free(request.host, port, reserved):
            raise _taken(port, option)
    for grpc, rest in _pairs(request):
        if grpc != rest and all(_is_free(request.host, port, reserved) for port in (grpc, rest)):
            return Listen(request.host, grpc, rest)
    raise UsageError(
        f"no pair of ports from {GRPC_PORT} to {GRPC_PORT + 2 * _PAIRS} is free",
        hint="give free ones with --grpc-port and --rest-port",
    )


def request_passed(passed: PassedSockets) -> PortRequest:
    """Return the request for exactly these sockets. Raises UsageError if one is missing."""
    grpc, rest = passed.address(GRPC), passed.address(REST)
    if grpc is None or rest is None or grpc[0] != rest[0]:
        raise UsageError(
            "the sockets passed to this process are not a TCP port each for gRPC and REST, at the "
            "same address",
            hint="mlserve deploy systemd writes socket units for both",
        )
    return PortRequest(grpc[0], grpc[1], rest[1], passed)


def is_free(host: str, port: int) -> bool:
    """Return whether a server could listen there. Raises UsageError if the host is not ours."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise UsageError(
            f"cannot listen on {host} port {port}: {error.strerror or error}",
            hint="give an address of this machine with --host, and a port above 1023",
        ) from error
    return True


def owner(port: int) -> str | None:
    """Return the process listening on a port, as `name (pid N)`; None if it is not visible."""
    import psutil

    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr:
                continue
            if connection.laddr.port == port and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        return None
    return None


def _is_free(host: str, port: int, reserved: Collection[int]) -> bool:
    return port not in reserved and is_free(host, port)


def _pairs(request: PortRequest) -> Iterator[tuple[int, int]]:
    for step in range(0, 2 * _PAIRS, 2):
        yield (
            _candidate(request.host, request.grpc, GRPC_PORT + step),
            _candidate(request.host, request.rest, REST_PORT + step),
        )


def _candidate(host: str, asked: int | None, default: int) -> int:
    if asked is None:
        return default
    return asked or _from_system(host)


def _from_system(host: str) -> int:
    family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.bind(address)
        port: int = probe.getsockname()[1]
    return port


def _taken(port: int, option: str) -> UsageError:
    holder = owner(port)
    return UsageError(
        f"port {port} is taken" + (f" by {holder}" if holder else ""),
        hint=f"give a free port with {option}, or leave it out to get the next free one",
    )
