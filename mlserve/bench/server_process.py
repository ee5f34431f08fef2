"""What a server on this machine costs: the CPU time and the memory of its processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import psutil

from mlserve.client.endpoint import Endpoint

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied)
_FOR_OTHERS = ("systemd", "docker-proxy", "rootlessport", "slirp4netns", "pasta", "pasta.avx2")
"""Processes that listen in place of the server: what they take is not what it takes."""


class ServerProcesses:
    """The processes of a server and their children; no pids means that they are not known."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = tuple(pids)
        self._known: list[psutil.Process] = []
        self._before: dict[psutil.Process, float] = {}
        self._after: dict[psutil.Process, float] = {}

    def look(self) -> None:
        """Find the processes, which takes milliseconds; `start` and `stop` only read their time."""
        self._known = list(self._tree())

    def start(self) -> None:
        """Begin to count the CPU time of those that were found."""
        self._before = _times(self._known)

    def stop(self) -> None:
        """End to count."""
        self._after = _times(self._known)

    def cpu_seconds(self) -> float | None:
        """Return the CPU time from `start` to `stop`; None if it is not known.

        Processes that have come since `look` are found now, and count with all their time.
        """
        new = _times(process for process in self._tree() if process not in self._known)
        spent = {**self._after, **new}
        if not spent:
            return None
        return sum(time - self._before.get(process, 0.0) for process, time in spent.items())

    def pss(self) -> int | None:
        """Return the memory in bytes, shared pages divided among those that share; None: unknown.

        Where the system does not tell PSS, it is the resident memory.
        """
        sizes = []
        for process in self._tree():
            with suppress(*_GONE):
                memory = process.memory_full_info()
                sizes.append(getattr(memory, "pss", 0) or memory.rss)
        return sum(sizes) or None

    def _tree(self) -> Iterator[psutil.Process]:
        found: dict[int, psutil.Process] = {}
        for pid in self._pids:
            with suppress(*_GONE):
                root = psutil.Process(pid)
                for process in (root, *root.children(recursive=True)):
                    found[process.pid] = process
        yield from found.values()


def _is_of(connection: Any, endpoint: Endpoint) -> bool:
    """Return whether the connection is at the server's end; only TCP says which one listens."""
    if endpoint.socket:
        return bool(connection.laddr == endpoint.socket)
    port = getattr(connection.laddr, "port", None)
    return connection.status == psutil.CONN_LISTEN and port == endpoint.port


def _is_own(pid: int) -> bool:
    """Return whether what listens there is the server itself."""
    with suppress(*_GONE):
        return psutil.Process(pid).name() not in _FOR_OTHERS
    return False


def _times(processes: Iterable[psutil.Process]) -> dict[psutil.Process, float]:
    """Return the CPU time of each that is still there, in seconds."""
    found = {}
    for process in processes:
        with suppress(*_GONE):
            times = process.cpu_times()
            found[process] = times.user + times.system
    return found


def listeners(endpoint: Endpoint) -> tuple[int, ...]:
    """Return the processes that listen on the port or UNIX socket, if it is of this machine.

    Those of other users cannot be seen, nor can a server whose ports another process has, such as
    one in a container.
    """
    if not endpoint.is_loopback:
        return ()
    try:
        connections = psutil.net_connections("unix" if endpoint.socket else "tcp")
    except psutil.AccessDenied:  # where only root may look, as on macOS
        return ()
    return tuple(
        sorted(
            {
                found.pid
                for found in connections
                if found.pid is not None and _is_of(found, endpoint) and _is_own(found.pid)
            }
        )
    )
