"""Whether a server that tells nobody has work: seen from outside, by its connections and its CPU.

A server of another maker has no count of its requests in flight, and ends by a signal without
answering them. It is taken to be idle when it has used next to no CPU for a second, or, as a
process of this machine, when no client is connected to its ports for a moment. So work that uses no
CPU of the server's processes for so long (a model that runs on a GPU alone, or waits for something
else) is not seen, and a client that keeps asking keeps it busy.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import psutil

from mlserve.launch.docker import containers
from mlserve.launch.processes import is_running
from mlserve.launch.state import ServerRecord

CpuClock = Callable[[], float]
"""The seconds of CPU time that a server has used until now, from some start on."""

_PAUSE = 0.1
_ALONE = 4
"""Looks in a row that find no client: one may just be on its way."""
_WINDOW = 1.0
"""Seconds over which the CPU time is counted."""
_IDLE_SHARE = 0.03
"""Of one CPU: what polling folders and ports may cost. The system counts in 0.01 s."""
_GONE_STATES = (psutil.CONN_LISTEN, psutil.CONN_TIME_WAIT, psutil.CONN_CLOSE)


def is_idle_within(record: ServerRecord, give_up: float, on_wait: Callable[[float], None]) -> bool:
    """Returns when the server seems idle or is gone: True; or at `give_up`: False.

    `give_up` is a `time.monotonic()` value; `on_wait` is called with the seconds that are left.
    Raises NoEngine and EngineRefused for a container whose engine cannot be asked.
    """
    seen: deque[tuple[float, float]] = deque()
    alone = 0
    try:
        used = _clock_of(record)
        while (left := give_up - time.monotonic()) > 0:
            if record.container is None and not is_running(record):
                return True  # it is gone, and its pid may be another's
            seen.append((used(), time.monotonic()))
            alone = 0 if _has_clients(record) else alone + 1
            if _is_quiet(seen) or alone >= _ALONE:
                return True
            on_wait(left)
            time.sleep(_PAUSE)
    except psutil.NoSuchProcess:
        return True
    return False


def _is_quiet(seen: deque[tuple[float, float]]) -> bool:
    """Whether the CPU stood still over the window; drops what lies before it."""
    last_used, last = seen[-1]
    while len(seen) > 1 and last - seen[1][1] >= _WINDOW:
        seen.popleft()
    used, since = seen[0]
    span = last - since
    return span >= _WINDOW and last_used - used <= _IDLE_SHARE * span


def _clock_of(record: ServerRecord) -> CpuClock:
    """Of its processes where they are this machine's; else what the container engine measures.

    Raises psutil.NoSuchProcess when it is gone.
    """
    if record.container is None:
        return _ProcessClock(record.pid)
    pid = containers.local_pid(record.container)
    return containers.EngineClock(record.container) if pid is None else _ProcessClock(pid)


class _ProcessClock:
    """The CPU time of a process and all that it started."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)

    def __call__(self) -> float:
        total = 0.0
        for one in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                times = one.cpu_times()
                total += times.user + times.system
        return total


def _has_clients(record: ServerRecord) -> bool:
    """Whether a connection to one of its ports is open; True when that cannot be seen."""
    if record.container is not None:
        return True  # the connections are the engine's proxy's, or in a network of their own
    ports = (record.grpc_port, record.rest_port)
    process = psutil.Process(record.pid)
    try:
        found = [
            connection
            for one in (process, *process.children(recursive=True))
            for connection in one.net_connections(kind="tcp")
        ]
    except psutil.AccessDenied:
        return True
    return any(c.laddr and c.laddr.port in ports and c.status not in _GONE_STATES for c in found)
