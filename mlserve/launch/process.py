"""A server that is a local process: whether it runs, its log, and how it is stopped."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from mlserve.errors import Unavailable
from mlserve.launch.logs import follow, last_lines
from mlserve.launch.records import ServerRecord

OnWait = Callable[[float], None]
"""Called repeatedly while a server ends, with the seconds that are left."""

_SAME_START = 0.05  # seconds; the kernel counts in hundredths
_PAUSE = 0.05
_KILL_SECONDS = 10.0
_CLOSED = (psutil.CONN_LISTEN, psutil.CONN_TIME_WAIT, psutil.CONN_CLOSE)


def created(pid: int) -> float:
    """Return when the process started, in seconds since the machine booted.

    Counted from boot, it does not change when the clock is set. Raises psutil.NoSuchProcess.
    """
    return round(psutil.Process(pid).create_time() - psutil.boot_time(), 3)


def is_process(pid: int, since: float) -> bool:
    """Return whether `pid` is the running process that started at `since` (see `created`).

    A zombie does not count as running; a process that we may not inspect does.
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


def _is_other(pid: int, since: float) -> bool:
    """Return whether `pid` is a process, running or zombie, that did not start at `since`."""
    try:
        return abs(created(pid) - since) >= _SAME_START
    except psutil.Error:
        return False


def _is_of_session(process: psutil.Process, session: int) -> bool:
    try:
        is_member = os.getsid(process.pid) == session and process.pid != session
        return is_member and process.status() != psutil.STATUS_ZOMBIE
    except (ProcessLookupError, PermissionError, psutil.Error):
        return False


class NotTold(Unavailable):
    """The server was not stopped, as this user may not signal its process."""


class StillRunning(Unavailable):
    """The process does not end, even after SIGKILL."""


class RunningProcess:
    """The process of a recorded server; `mlserve.launch.running` documents the methods."""

    def __init__(self, record: ServerRecord) -> None:
        self._record = record

    def is_running(self) -> bool:
        return is_process(self._record.pid, self._record.pid_created)

    def uptime(self) -> float:
        """Return the seconds since it started, unaffected by changes of the wall clock."""
        clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
        return max(0.0, time.clock_gettime(clock) - self._record.pid_created)

    @property
    def log_file(self) -> Path | None:
        return self._record.log

    def log(self, tail: int | None = None, *, follows: bool = False) -> Iterator[bytes]:
        """Yield the log. Raises OSError, and UsageError if it is a link or another user's."""
        assert self._record.log is not None
        return follow(self._record.log, tail, lambda: follows and self.is_running())

    def last_lines(self, count: int) -> list[str]:
        return last_lines(self._record.log, count) if self._record.log else []

    @property
    def drains(self) -> bool:
        """True for mlserve's own server; a third-party server dies of SIGTERM at once."""
        return self._record.traits.drains

    def has_clients(self) -> bool | None:
        """Return whether a connection to one of its ports is open."""
        listen = self._record.listen
        try:
            leader = psutil.Process(self._record.pid)
            connections = [
                connection
                for process in (leader, *leader.children(recursive=True))
                for connection in process.net_connections(kind="tcp")
            ]
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return None
        return any(
            connection.laddr
            and connection.laddr.port in (listen.grpc_port, listen.rest_port)
            and connection.status not in _CLOSED
            for connection in connections
        )

    def stop(self, timeout: float, on_wait: OnWait | None = None) -> bool:
        """Stop the process group, and wait for all of it. Raises NotTold and StillRunning."""
        self._send(signal.SIGTERM)
        if self._is_gone_within(timeout, on_wait):
            return False
        self._send(signal.SIGKILL)
        if not self._is_gone_within(_KILL_SECONDS):
            raise StillRunning(
                f"the process {self._record.pid} of {self._record.name} does not end, even after "
                "SIGKILL",
                hint="it hangs in the kernel, as on a lost disk; check it with ps",
            )
        return True

    def why_killed(self) -> str:
        return "was it killed because memory ran out?"

    def let_restart(self) -> None:
        """Do nothing: a process that ends stays down until the next `mlserve up`."""

    def discard(self) -> None:
        """Do nothing: a process that has ended leaves only its log, which stays."""

    def _send(self, number: signal.Signals) -> None:
        """Signal the server and its children: it leads its own process group."""
        if not self.is_running() and not self._has_left_children():
            return
        pid = self._record.pid
        try:
            if self._leads_a_group():
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        except ProcessLookupError:
            return
        except PermissionError as error:
            raise NotTold(
                f"{self._record.name} (pid {pid}) belongs to another user and cannot be stopped",
                hint="stop it as that user",
            ) from error

    def _leads_a_group(self) -> bool:
        try:
            return os.getpgid(self._record.pid) == self._record.pid
        except ProcessLookupError:
            return True  # it did: its group may outlive it

    def _has_left_children(self) -> bool:
        """Return whether a process of its session runs on after it.

        TorchServe's start script, for one, dies at once, and its Java server some seconds later.
        No new process gets the id of a session that has processes left; where one has got it, the
        server's session is over.
        """
        pid = self._record.pid
        if _is_other(pid, self._record.pid_created):
            return False
        try:
            os.killpg(pid, 0)
        except ProcessLookupError:
            return False  # the usual case, without a look at all processes
        except PermissionError:
            return True
        return any(_is_of_session(process, pid) for process in psutil.process_iter())

    def _is_gone_within(self, timeout: float, on_wait: OnWait | None = None) -> bool:
        give_up = time.monotonic() + timeout
        while self.is_running() or self._has_left_children():
            left = give_up - time.monotonic()
            if left <= 0:
                return False
            if on_wait is not None:
                on_wait(left)
            time.sleep(_PAUSE)
        return True
