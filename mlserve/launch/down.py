"""Which servers to stop, and stopping them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlserve.errors import UsageError
from mlserve.launch.lock import state_lock
from mlserve.launch.processes import reconcile, stop
from mlserve.launch.state import ServerRecord, remove_record, select


@dataclass(frozen=True, slots=True)
class Stopped:
    """A server that is gone. `was_killed` when it did not end by itself in time."""

    record: ServerRecord
    was_killed: bool


def running(
    *, name: str | None = None, backend: str | None = None, model: str | None = None
) -> list[ServerRecord]:
    """The one running server that fits; none when nothing runs at all.

    Raises Unavailable when others run and none of them fits, UsageError when several fit.
    """
    alive, _ = reconcile()
    if not alive:
        return []
    try:
        return [select(alive, name=name, backend=backend, model=model)]
    except UsageError as error:
        raise UsageError(error.message, hint=f"{error.hint}, or give its name, or --all") from error


def stop_all(records: list[ServerRecord], timeout: float) -> Iterator[Stopped]:
    """Stops each of these servers, and drops its record once the process is gone.

    SIGKILL follows when `timeout` seconds (of each) have passed.
    """
    for record in records:
        was_killed = stop(record, timeout)
        with state_lock():
            remove_record(record)
        yield Stopped(record, was_killed)
