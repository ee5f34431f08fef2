"""The processes behind the records: which of them run, and how they are stopped.

A server of another maker has no count of its requests in flight, and ends by a signal without
answering them. It is taken to be idle when it has used next to no CPU for a second, or, as a
process of this machine, when no client is connected to its ports for a moment. So work that uses no
CPU of the server's processes for so long (a model that runs on a GPU alone, or waits for something
else) is not seen, and a client that keeps asking keeps it busy.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import psutil

from mlserve.errors import MlserveError, Unavailable
from mlserve.launch.docker import container
from mlserve.launch.records import (
    ServerRecord,
    read_records,
    remove_record,
    state_lock,
    write_record,
)

_SAME_START = 0.05  # seconds; the kernel counts in hundredths
_PAUSE = 0.05


def created(pid: int) -> float:
    """When that process started, in seconds since the machine booted.

    Counted from the boot, it stays the same when the clock is set. Raises psutil.NoSuchProcess.
    """
    return round(psutil.Process(pid).create_time() - psutil.boot_time(), 3)


def uptime(record: ServerRecord) -> float:
    """Seconds since the recorded process started, whatever the wall clock was set to meanwhile.

    A container's count from when it was first started, by the wall clock.
    """
    if record.container is not None:
        since = datetime.fromisoformat(record.started)
        return max(0.0, (datetime.now(UTC) - since).total_seconds())
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return max(0.0, time.clock_gettime(clock) - record.pid_created)


def is_running(record: ServerRecord) -> bool:
    """Whether the recorded process itself runs, or the container."""
    if record.container is not None:
        return container.is_running(record.container)
    return is_process(record.pid, record.pid_created)


def is_process(pid: int, since: float) -> bool:
    """Whether the process of that pid runs that started then (as `created` tells).

    A zombie does not run; a process that may not be looked at does.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(created(pid) - since) < _SAME_START
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


class NotTold(Unavailable):
    """The server was not stopped, as this user may not signal its process."""


def reconcile() -> tuple[list[ServerRecord], list[ServerRecord]]:
    """The records whose process runs, and those whose process is gone, which are dropped here.

    A container whose record was lost gets it back.
    """
    alive: list[ServerRecord] = []
    dead: list[ServerRecord] = []
    known = read_records()
    lost = container.unrecorded(known)
    for record in known + lost:
        (alive if is_running(record) else dead).append(record)
    if dead or lost:
        # Where the state cannot be written they stay, and are left out again next time.
        with suppress(MlserveError), state_lock():
            for record in dead:
                _forget(record)
            for record in lost:
                _adopt(record, alive)
    return alive, dead


def drop_dead() -> list[ServerRecord]:
    """The records whose process runs; the others are removed. For a caller that holds the lock."""
    alive = []
    known = read_records()
    lost = container.unrecorded(known)
    for record in known + lost:
        if is_running(record):
            alive.append(record)
        else:
            _forget(record)
    for record in lost:
        _adopt(record, alive)
    return alive


def _forget(record: ServerRecord) -> None:
    remove_record(record)
    container.collect(record)


def _adopt(record: ServerRecord, alive: list[ServerRecord]) -> None:
    """Records a running container again, unless a server of its name has taken its place."""
    if record in alive and not any(there.name == record.name for there in read_records()):
        write_record(record)


def stop(
    record: ServerRecord, timeout: float, on_wait: Callable[[float], None] | None = None
) -> bool:
    """Ends the recorded process and returns when it is gone: True when it had to be killed.

    SIGTERM first, then SIGKILL once `timeout` seconds have passed; meanwhile `on_wait` is called
    with the seconds that are left. Raises NotTold when the process belongs to someone else,
    Unavailable when it survives even that.
    """
    if record.container is not None:
        return container.stop(record, timeout, on_wait)
    _send(record, signal.SIGTERM)
    if _is_gone_within(record, timeout, on_wait):
        return False
    _send(record, signal.SIGKILL)
    if not _is_gone_within(record, 10):
        raise Unavailable(
            f"the process {record.pid} of {record.name} does not end, even after SIGKILL",
            hint="it hangs in the kernel, as on a lost disk; check it with ps",
        )
    return True


def _send(record: ServerRecord, number: signal.Signals) -> None:
    """Signals the server and what it started: it leads its own process group."""
    if not is_running(record):
        return
    try:
        if os.getpgid(record.pid) == record.pid:
            os.killpg(record.pid, number)
        else:
            os.kill(record.pid, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise NotTold(
            f"{record.name} (pid {record.pid}) belongs to another user and cannot be stopped",
            hint="stop it as that user",
        ) from error


def _is_gone_within(
    record: ServerRecord, timeout: float, on_wait: Callable[[float], None] | None = None
) -> bool:
    give_up = time.monotonic() + timeout
    while is_running(record):
        left = give_up - time.monotonic()
        if left <= 0:
            return False
        if on_wait is not None:
            on_wait(left)
        time.sleep(_PAUSE)
    return True


CpuClock = Callable[[], float]
"""The seconds of CPU time that a server has used until now, from some start on."""

_LOOK_PAUSE = 0.1
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
            time.sleep(_LOOK_PAUSE)
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
    pid = container.local_pid(record.container)
    return container.EngineClock(record.container) if pid is None else _ProcessClock(pid)


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
