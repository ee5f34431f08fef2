"""Whether a server that tells nobody has work: seen from outside, by its connections and its CPU.

A server of another maker has no count of its requests in flight, and ends by SIGTERM without
answering them. It is taken to be idle when no client is connected to its ports for a moment, or
when it has used next to no CPU for a second. So work that uses no CPU of the server's processes for
so long (a model that runs on a GPU alone, or waits for something else) is not seen, and a client
that keeps asking keeps it busy.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import psutil

from mlserve.launch.state import ServerRecord

_PAUSE = 0.1
_ALONE = 4
"""Looks in a row that find no client: one may just be on its way."""
_WINDOW = 10
"""Pauses over which the CPU time is counted: a second."""
_IDLE_CPU = 0.03
"""Seconds of CPU time in the window that polling folders and ports may cost; counted in 0.01 s."""
_GONE_STATES = (psutil.CONN_LISTEN, psutil.CONN_TIME_WAIT, psutil.CONN_CLOSE)


def wait_until_idle(record: ServerRecord, give_up: float, on_wait: Callable[[float], None]) -> None:
    """Returns when the server seems idle, is gone, or at `give_up`, a `time.monotonic()` value.

    `on_wait` is called with the seconds that are left.
    """
    seen: deque[float] = deque(maxlen=_WINDOW + 1)
    alone = 0
    try:
        process = psutil.Process(record.pid)
        while (left := give_up - time.monotonic()) > 0:
            seen.append(_cpu_seconds(process))
            is_quiet = len(seen) > _WINDOW and seen[-1] - seen[0] <= _IDLE_CPU
            alone = 0 if _has_clients(process, record) else alone + 1
            if is_quiet or alone >= _ALONE:
                return
            on_wait(left)
            time.sleep(_PAUSE)
    except psutil.NoSuchProcess:
        return


def _cpu_seconds(process: psutil.Process) -> float:
    total = 0.0
    for one in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            times = one.cpu_times()
            total += times.user + times.system
    return total


def _has_clients(process: psutil.Process, record: ServerRecord) -> bool:
    """Whether a connection to one of its ports is open; True when that may not be looked at."""
    ports = (record.grpc_port, record.rest_port)
    try:
        found = [
            connection
            for one in (process, *process.children(recursive=True))
            for connection in one.net_connections(kind="tcp")
        ]
    except psutil.AccessDenied:
        return True
    return any(c.laddr and c.laddr.port in ports and c.status not in _GONE_STATES for c in found)
