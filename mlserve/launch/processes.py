"""The processes behind the records: which of them run, and how they are stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import psutil

from mlserve.errors import MlserveError, Unavailable
from mlserve.launch.docker import containers
from mlserve.launch.lock import state_lock
from mlserve.launch.state import ServerRecord, read_records, remove_record, write_record

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
        return containers.is_running(record.container)
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
    """The process was not told to end: this user may not."""


def reconcile() -> tuple[list[ServerRecord], list[ServerRecord]]:
    """The records whose process runs, and those whose process is gone, which are dropped here.

    A container whose record was lost gets it back.
    """
    alive: list[ServerRecord] = []
    dead: list[ServerRecord] = []
    known = read_records()
    lost = containers.unrecorded(known)
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
    lost = containers.unrecorded(known)
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
    containers.collect(record)


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
        return containers.stop(record, timeout, on_wait)
    _send(record, signal.SIGTERM)
    if _is_gone_within(record, timeout, on_wait):
        return False
    _send(record, signal.SIGKILL)
    if not _is_gone_within(record, 10):
        raise Unavailable(
            f"the process {record.pid} of {record.name} does not end, not even by SIGKILL",
            hint="it hangs in the system, as on a lost disk; look at it with ps",
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
