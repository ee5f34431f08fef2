"""The servers behind the records: each is a process or a container, behind one interface.

Docker's part of mlserve is imported only where there is a container, or a `docker` on PATH.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
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

    What asks a container engine raises NoEngine and EngineRefused, where nothing else is said.
    """

    def is_running(self) -> bool:
        """Whether it runs now. One that cannot be looked at counts as running."""

    def uptime(self) -> float:
        """The seconds since it started."""

    @property
    def log_file(self) -> Path | None:
        """The file that it logs to while it runs; None where that is something else."""

    def log(self, tail: int | None = None, *, follows: bool = False) -> Iterator[bytes]:
        """Its log, from the last `tail` lines on; with `follows`, on until it ends."""

    def last_lines(self, count: int) -> list[str]:
        """The last lines of its log; none when it cannot be read."""

    @property
    def drains(self) -> bool:
        """Whether it can be told to end without losing a request."""

    def has_clients(self) -> bool | None:
        """Whether anybody is connected to it; None where that cannot be seen from here."""

    def stop(self, timeout: float, on_wait: OnWait | None = None) -> bool:
        """Tells it to end, and returns once it is gone: True when it had to be killed.

        That is done after `timeout` seconds. Meanwhile `on_wait` is called.
        """

    def why_killed(self) -> str:
        """A hint on what may have killed it."""

    def let_restart(self) -> None:
        """Lets whoever runs it start it again after a crash, now that it has been ready once."""

    def discard(self) -> None:
        """Removes what it leaves behind when it has ended, but keeps its log."""


def server_of(record: ServerRecord) -> RunningServer:
    """The process or the container of that record."""
    if record.container is None:
        return RunningProcess(record)
    from mlserve.launch.docker.container import RunningContainer

    return RunningContainer(record)


def reconcile() -> tuple[list[ServerRecord], list[ServerRecord]]:
    """The records whose server runs, and those whose server is gone, which are dropped here.

    A container whose record was lost gets it back.
    """
    known = read_records()
    lost = _unrecorded(known)
    alive, dead = _sorted(known + lost)
    if dead or lost:
        # Where the state cannot be written they stay, and are left out again next time.
        with suppress(MlserveError), state_lock():
            _settle(dead, lost, alive)
    return alive, dead


def drop_dead() -> list[ServerRecord]:
    """The records whose server runs; the others are removed. For a caller that holds the lock."""
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
        # Unless a server of its name has taken its place.
        if record in alive and not any(there.name == record.name for there in read_records()):
            write_record(record)
