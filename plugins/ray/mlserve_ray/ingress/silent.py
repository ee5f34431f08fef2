"""End the connections to replicas that have fallen silent, so that their requests are asked again.

A process that has stopped keeps its connections: its machine goes on acknowledging what it is
sent. Envoy sends such a replica nothing more once it misses a health check, but it waits for the
answers to what it has sent: over HTTP/2 until a ping is not answered, over HTTP/1.1 for ever. (A
machine that is gone is noticed by the system: `bootstrap`.) So the connections are shut down here,
from outside: the system lets a process take a copy of a socket of its child (`pidfd_getfd`). Where
it does not, as in some containers, requests over HTTP/1.1 wait for their deadlines.
"""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

import psutil

from mlserve_ray.ingress.admin import Replica

_log = logging.getLogger(__name__)

_SURE_SECONDS = 1.0
"""Seconds for which a replica has been silent before its requests are asked again. One that has too
little CPU misses a health check now and then, and to ask again is more work for the others."""
_PIDFD_GETFD = 438
"""The number of the system call, the same on every architecture."""


class Silence:
    """Notices replicas that fall silent, and ends what they were asked."""

    def __init__(self) -> None:
        self._is_refused = False
        self._since: dict[tuple[str, int], float] = {}

    def end(self, pid: int, replicas: Sequence[Replica]) -> None:
        """Shut down Envoy's connections to the replicas that are silent and have requests."""
        now = time.monotonic()
        known = {(one.host, one.port): one for one in replicas if one.is_silent}
        self._since = {which: self._since.get(which, now) for which in known}
        silent = {
            which
            for which, since in self._since.items()
            if known[which].active and now - since >= _SURE_SECONDS
        }
        if not silent or self._is_refused:
            return
        try:
            ended = sum(_shut_down(pid, descriptor) for descriptor in _sockets(pid, silent))
        except (psutil.NoSuchProcess, ProcessLookupError):
            return  # Envoy is gone, and its connections with it
        except (OSError, psutil.AccessDenied) as error:
            self._is_refused = True
            _log.warning(
                "requests over HTTP/1.1 to a replica that falls silent wait for their deadlines: "
                "this process may not end Envoy's connections (%s)",
                error,
            )
            return
        names = ", ".join(f"{host}:{port}" for host, port in sorted(silent))
        _log.warning("no sign of life from %s: %d requests are asked again", names, ended)


def _sockets(pid: int, peers: Iterable[tuple[str, int]]) -> Iterator[int]:
    """Yield the descriptors of that process's connections to the peers."""
    known = set(peers)
    for one in psutil.Process(pid).net_connections("tcp"):
        if one.raddr and (one.raddr.ip, one.raddr.port) in known:
            yield one.fd


def _shut_down(pid: int, descriptor: int) -> bool:
    """Shut a socket of that process down, and return whether it was there. Raises OSError."""
    process = os.pidfd_open(pid)
    try:
        copy = _copy(process, descriptor)
    finally:
        os.close(process)
    if copy is None:
        return False
    with socket.socket(fileno=copy) as connection, suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    return True


def _copy(process: int, descriptor: int) -> int | None:
    """Return a copy of a process's descriptor; None if it has been closed. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    copy: int = libc.syscall(_PIDFD_GETFD, process, descriptor, 0)
    if copy >= 0:
        return copy
    error = ctypes.get_errno()
    bad_descriptor = 9
    if error == bad_descriptor:
        return None
    raise OSError(error, os.strerror(error))
