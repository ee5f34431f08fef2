"""Which servers to stop, and stopping them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from mlserve.errors import MlserveError, UsageError
from mlserve.launch.docker import container
from mlserve.launch.docker.engine import EngineRefused, NoEngine
from mlserve.launch.process import NotTold, is_idle_within, reconcile, stop
from mlserve.launch.records import (
    ServerRecord,
    read_records,
    remove_record,
    select,
    state_lock,
    write_record,
)
from mlserve.launch.serving import Launcher
from mlserve.launch.signals import Interrupts

Show = Callable[[str], None]
"""Called with what is being waited for."""

_MARGIN = 5.0
"""Seconds for a server that has drained to unload its model and end."""

_END = 1.0
"""Seconds at least between a SIGTERM, which ends such a server at once, and SIGKILL."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A server that is gone. `was_killed` when it did not end by itself in `allowed` seconds."""

    record: ServerRecord
    was_killed: bool
    allowed: float


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
        record = select(alive, name=name, backend=backend, model=model, choose="mlserve down")
    except UsageError as error:
        raise UsageError(error.message, hint=f"{error.hint}; or --all") from error
    return [record]


def stop_all(records: list[ServerRecord], timeout: float | None, show: Show) -> Iterator[Stopped]:
    """Stops each of these servers, and drops its record once the process is gone.

    SIGKILL follows when `timeout` seconds (of each) have passed; None is what the server needs for
    its own drain. One that does not drain by itself is ended when it is idle; `was_killed` says
    that it was not, too. SIGTERM interrupts it as Ctrl-C does: a server that was not told to end
    yet serves on, and is recorded so.
    """
    for record in records:
        allowed = record.settings.drain_timeout + _MARGIN if timeout is None else timeout
        with Interrupts.watched():
            was_killed = _stop_drained(record, allowed, show)
        with state_lock():
            remove_record(record)
        yield Stopped(record, was_killed, allowed)


def _stop_drained(record: ServerRecord, allowed: float, show: Show) -> bool:
    give_up = time.monotonic() + allowed

    def on_wait(left: float) -> None:
        show(f"{record.name} finishes its requests, for {left:.0f} s at most")

    _mark(record, is_stopping=True)
    try:
        drains = _may_be_told(record)
        is_idle = drains or is_idle_within(record, give_up, on_wait)
    except BaseException:  # it was not told to end, and serves on
        _mark(record, is_stopping=False)
        raise
    left = allowed if drains else max(_END, give_up - time.monotonic())
    try:
        return stop(record, left, on_wait) or not is_idle
    except (NotTold, NoEngine, EngineRefused):
        _mark(record, is_stopping=False)
        raise


def _may_be_told(record: ServerRecord) -> bool:
    """Whether it loses no request by being told to end: it drains by itself, or has none yet."""
    if record.container is None:
        return record.launcher == Launcher.EMBEDDED
    return not record.is_ready or container.drains(record.container)


def _mark(record: ServerRecord, *, is_stopping: bool) -> None:
    """Notes it on disk, for the commands that look for a server to ask.

    Where the state cannot be written, the server is stopped all the same.
    """
    with suppress(MlserveError), state_lock():
        if any(r.is_of_same_start(record) for r in read_records(_ignore)):
            write_record(replace(record, is_stopping=is_stopping))


def _ignore(_unreadable: str) -> None:
    """A record that cannot be read has been told of before."""
