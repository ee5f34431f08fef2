"""The two ports of the address, held for as long as Envoys may listen on them."""

from __future__ import annotations

import socket
from dataclasses import replace

from mlserve.errors import Unavailable, UsageError
from mlserve_ray.ingress.options import Listen


class HeldPorts:
    """Sockets that are bound and do not listen, so that they get no connections.

    They allow others on their ports (SO_REUSEPORT): several Envoys share them, and when one dies,
    connections are made to the others at once. Programs of other users cannot join, and one that
    does not ask for SO_REUSEPORT cannot either.

    Raises UsageError for a host that is none, Unavailable if a port is taken or not allowed.
    """

    def __init__(self, listen: Listen) -> None:
        family, host = _address_of(listen.host)
        self._sockets: list[socket.socket] = []
        try:
            ports = [self._hold(family, host, one) for one in (listen.grpc_port, listen.rest_port)]
        except BaseException:
            self.close()
            raise
        self.listen = replace(listen, grpc_port=ports[0], rest_port=ports[1])
        """The address as it was given, with the ports that are held."""
        self.address = replace(self.listen, host=host)
        """The same as an IP address."""

    def close(self) -> None:
        """Hold them no longer."""
        for one in self._sockets:
            one.close()

    def _hold(self, family: socket.AddressFamily, host: str, port: int) -> int:
        """Return the port that is held; 0 is any."""
        try:
            with _bound(family, host, port, is_shared=False):
                """Nobody else listens, not even one that would share the port."""
            held = _bound(family, host, port, is_shared=True)
        except OSError as error:
            raise Unavailable(
                f"cannot listen on {host}:{port} (the port is taken, or not allowed): "
                f"{error.strerror or error}",
                hint="choose others with --grpc-port and --rest-port",
            ) from error
        self._sockets.append(held)
        return int(held.getsockname()[1])


def _bound(family: socket.AddressFamily, host: str, port: int, *, is_shared: bool) -> socket.socket:
    one = socket.socket(family)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, is_shared)
        if family is socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((host, port))
    except BaseException:
        one.close()
        raise
    return one


def _address_of(host: str) -> tuple[socket.AddressFamily, str]:
    """Return a host's IP address, and its family. Raises UsageError."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise UsageError(
            f"{host} (--host) is no address of this machine: {error.strerror or error}",
            hint="give an IP address: 0.0.0.0 is all of them",
        ) from error
    return found[0][0], str(found[0][4][0])
