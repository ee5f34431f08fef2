"""What a server on this machine costs: the CPU time and the memory of its processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import psutil

from mlserve.client.endpoint import Endpoint

_GONE = (psutil.NoSuchProcess, psutil.AccessDenied)


class ServerProcesses:
    """The processes of a server and their children; no pids means that they are not known."""

    def __init__(self, pids: Iterable[int]) -> None:
        self._pids = tuple(pids)
        self._before: dict[tuple[int, float], float] = {}

    def start(self) -> None:
        """Begin to count CPU time."""
        self._before = dict(self._times())

    def cpu_seconds(self) -> float | None:
        """Return the CPU time since `start`, of those that are there now; None if not known."""
        now = dict(self._times())
        if not now:
            return None
        return sum(spent - self._before.get(process, 0.0) for process, spent in now.items())

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

    def _times(self) -> Iterator[tuple[tuple[int, float], float]]:
        for process in self._tree():
            with suppress(*_GONE):
                times = process.cpu_times()
                yield (process.pid, process.create_time()), times.user + times.system

    def _tree(self) -> Iterator[psutil.Process]:
        found: dict[int, psutil.Process] = {}
        for pid in self._pids:
            with suppress(*_GONE):
                root = psutil.Process(pid)
                for process in (root, *root.children(recursive=True)):
                    found[process.pid] = process
        yield from found.values()


def listeners(endpoint: Endpoint) -> tuple[int, ...]:
    """Return the processes that listen on the port, if it is one of this machine.

    Those of other users cannot be seen.
    """
    if not endpoint.is_loopback:
        return ()
    try:
        connections = psutil.net_connections("tcp")
    except psutil.AccessDenied:  # where only root may look, as on macOS
        return ()
    return tuple(
        sorted(
            {
                found.pid
                for found in connections
                if found.pid is not None
                and found.status == psutil.CONN_LISTEN
                and getattr(found.laddr, "port", None) == endpoint.port
            }
        )
    )
