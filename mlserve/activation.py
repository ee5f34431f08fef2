"""Socket activation: listening sockets that a process gets from the one that starts it.

systemd, and whatever follows its protocol, opens the sockets of a service itself and passes them to
the process as file descriptors from 3 on. They stay open between two processes: a connection that
is made during a restart waits in the kernel for the next one. `LISTEN_PID` says for which process
they are, `LISTEN_FDS` how many, and `LISTEN_FDNAMES` what they are called (`FileDescriptorName=` of
a socket unit). Protocol: sd_listen_fds(3).
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass

from mlserve.errors import UsageError

GRPC, REST = "grpc", "rest"
"""The names of the sockets that a server takes."""
FOR_SERVER = "MLSERVE_LISTEN_FDS"
"""Sockets that `mlserve up --foreground` passes on to its server: `grpc:3,rest:4`.

`LISTEN_PID` cannot say that they are for it: its number is known only once it runs.
"""
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_FIRST = 3
_PASSED_ON = re.compile("[a-z]+:[0-9]{1,7}(,[a-z]+:[0-9]{1,7})*")
_HINT = (
    "the socket units need FileDescriptorName=grpc and FileDescriptorName=rest, "
    "ListenStream= and Accept=no: mlserve deploy systemd writes them"
)


@dataclass(frozen=True, slots=True)
class PassedSockets:
    """The descriptors of listening sockets for gRPC and for REST; none for a port to be opened."""

    grpc: tuple[int, ...] = ()
    rest: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.grpc or self.rest)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """All of them."""
        return self.grpc + self.rest

    def address(self, name: str) -> tuple[str, int] | None:
        """Return host and port of the first TCP socket of that name; None if there is none."""
        return next(iter(_addresses(self.grpc if name == GRPC else self.rest)), None)

    def host(self, otherwise: str) -> str:
        """Return the address by which the server is exposed most: one beyond this machine if any.

        `otherwise` is where it opens a port of its own.
        """
        from mlserve.settings import is_loopback

        hosts = [host for host, _ in _addresses(self.descriptors)]
        if not (self.grpc and self.rest) or not hosts:
            hosts.append(otherwise)
        return next((host for host in hosts if not is_loopback(host)), hosts[0])

    def in_words(self) -> str:
        """Return the text of the variable FOR_SERVER."""
        named = ((GRPC, self.grpc), (REST, self.rest))
        return ",".join(f"{name}:{number}" for name, numbers in named for number in numbers)

    def opened(self, name: str) -> list[socket.socket]:
        """Return the sockets of that name; each closes its descriptor when it is closed."""
        numbers = self.grpc if name == GRPC else self.rest
        return [socket.socket(fileno=number) for number in numbers]


NONE_PASSED = PassedSockets()


def take_sockets(environ: MutableMapping[str, str] = os.environ) -> PassedSockets:
    """Return the sockets that were passed to this process, and forget the variables that say so.

    Programs that this one starts get neither. Raises UsageError for a name that is not known and
    for what is not a listening socket.
    """
    passed = _read(environ)
    for name in (*_VARIABLES, FOR_SERVER):
        environ.pop(name, None)
    for number in passed.descriptors:
        _require_listening(number)
        os.set_inheritable(number, False)
    return passed


def _read(environ: Mapping[str, str]) -> PassedSockets:
    if text := environ.get(FOR_SERVER):
        if _PASSED_ON.fullmatch(text) is None:
            raise UsageError(
                f"{FOR_SERVER} is {text!r}, and should be like grpc:3,rest:4",
                hint="leave it unset: mlserve up --foreground sets it for its server",
            )
        pairs = (each.split(":") for each in text.split(","))
        return _sorted([(name, int(number)) for name, number in pairs])
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return NONE_PASSED
    try:
        count = int(environ.get("LISTEN_FDS", "0"))
    except ValueError as error:
        raise UsageError(
            f"LISTEN_FDS is {environ['LISTEN_FDS']!r}, and should be a number", hint=_HINT
        ) from error
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    if count and len(names) != count:
        raise UsageError(
            f"LISTEN_FDS passes {count} sockets and LISTEN_FDNAMES "
            f"({environ.get('LISTEN_FDNAMES', '')!r}) names {len([n for n in names if n])}",
            hint=_HINT,
        )
    return _sorted([(name, _FIRST + index) for index, name in enumerate(names[:count])])


def _sorted(named: list[tuple[str, int]]) -> PassedSockets:
    for name, number in named:
        if name not in (GRPC, REST):
            raise UsageError(
                f"the socket passed as descriptor {number} is named {name!r}, and should be named "
                f"{GRPC} or {REST}",
                hint=_HINT,
            )
    return PassedSockets(*(tuple(n for name, n in named if name == each) for each in (GRPC, REST)))


def _require_listening(number: int) -> None:
    try:
        with socket.socket(fileno=os.dup(number)) as found:
            is_listening = (
                found.type == socket.SOCK_STREAM
                and found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
            )
    except OSError as error:
        raise UsageError(
            f"the descriptor {number}, passed as a socket, is none: {error.strerror or error}",
            hint=_HINT,
        ) from error
    if not is_listening:
        raise UsageError(
            f"the socket passed as descriptor {number} does not listen for connections", hint=_HINT
        )


def _addresses(numbers: tuple[int, ...]) -> list[tuple[str, int]]:
    found = []
    for number in numbers:
        with socket.socket(fileno=os.dup(number)) as each:
            if each.family in (socket.AF_INET, socket.AF_INET6):
                host, port, *_ = each.getsockname()
                found.append((host, port))
    return found
