"""Recorded servers as running processes or containers, behind one interface.

The docker modules are imported only if there is a container, or a `docker` on PATH.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from mlserve.errors import MlserveError
from mlserve.launch.process import OnWait, RunningProcess
from mlserve.launch.records import (
    ServerRecord,
    read_records,
    remove_record,
    state_lock,
    write_record,
)


class RunningServer(Protocol):
    """The process or the container of one recorded server.

    Methods that ask a container engine raise NoEngine and EngineRefused unless they say otherwise.
    """

    def is_running(self) -> bool:
        """Return whether it runs; a server that cannot be inspected counts as running."""

    def uptime(self) -> float:
        """Return the seconds since it started."""

    @property
    def log_file(self) -> Path | None:
        """The file that it logs to while it runs; None if it logs elsewhere."""

    def log(self, tail: int | None = None, *, follows: bool = False) -> Iterator[bytes]:
        """Yield its log from the last `tail` lines; with `follows`, until it ends."""

    def last_lines(self, count: int) -> list[str]:
        """Return the last lines of its log, or an empty list if it cannot be read."""

    @property
    def drains(self) -> bool:
        """Whether it can be told to end without losing a request."""

    def has_clients(self) -> bool | None:
        """Return whether a client is connected to it; None if that cannot be observed."""

    def stop(self, timeout: float, on_wait: OnWait | None = None) -> bool:
        """Tell it to end, and wait until it is gone; True if it had to be killed.

        It is killed after `timeout` seconds. Meanwhile `on_wait` is called.
        """

    def why_killed(self) -> str:
        """Return a hint about what may have killed it."""

    def let_restart(self) -> None:
        """Enable restarts after a crash, now that it has been ready once."""

    def discard(self) -> None:
        """Remove what it leaves behind after its end, except its log."""


def server_of(record: ServerRecord) -> RunningServer:
    """Return the process or the container of the record."""
    if record.container is None:
        return RunningProcess(record)
    from mlserve.launch.docker.container import RunningContainer

    return RunningContainer(record)


def among_running(records: Sequence[ServerRecord]) -> list[ServerRecord]:
    """Return those whose server runs.

    A server that ended by itself, or was killed, leaves its record until the next `mlserve ps`.
    """
    return [record for record in records if server_of(record).is_running()]


def reconcile() -> tuple[list[ServerRecord], list[ServerRecord]]:
    """Return the records of running servers and of those that are gone, which are dropped here.

    A container whose record was lost gets it back.
    """
    known = read_records()
    lost = _unrecorded(known)
    alive, dead = _sorted(known + lost)
    if dead or lost:
        # If the state cannot be written they stay, and are left out again next time.
        with suppress(MlserveError), state_lock():
            _settle(dead, lost, alive)
    return alive, dead


def drop_dead() -> list[ServerRecord]:
    """Return the records of running servers, and remove the others; the caller holds the lock."""
    known = read_records()
    lost = _unrecorded(known)
    alive, dead = _sorted(known + lost)
    _settle(dead, lost, alive)
    return alive


def _unrecorded(known: list[ServerRecord]) -> list[ServerRecord]:
    if shutil.which("docker") is None:
        return []
    from mlserve.launch.docker.container import unrecorded

    return unrecorded(known)


def _sorted(records: list[ServerRecord]) -> tuple[list[ServerRecord], list[ServerRecord]]:
    alive: list[ServerRecord] = []
    dead: list[ServerRecord] = []
    for record in records:
        (alive if server_of(record).is_running() else dead).append(record)
    return alive, dead


def _settle(dead: list[ServerRecord], lost: list[ServerRecord], alive: list[ServerRecord]) -> None:
    for record in dead:
        remove_record(record)
        server_of(record).discard()
    for record in lost:
        # Unless another server of that name has taken its place.
        if record in alive and not any(there.name == record.name for there in read_records()):
            write_record(record)
