"""Choose servers and stop them without cutting an answer short.

A server that drains is sent SIGTERM and finishes its requests first. A third-party server dies of
that signal with its requests unanswered, and does not report how many it has. So it gets a grace
period: it is marked as stopping, so that local commands send it nothing new, and keeps serving
until no client is connected to its ports, or the period is over. Where connections cannot be
observed, as in a container, it gets the whole period.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

from mlserve.errors import MlserveError, UsageError
from mlserve.launch.process import OnWait, StillRunning
from mlserve.launch.records import (
    ServerRecord,
    read_records,
    remove_record,
    select,
    state_lock,
    write_record,
)
from mlserve.launch.running import RunningServer, reconcile, server_of
from mlserve.launch.signals import Interrupts

Show = Callable[[str], None]
"""Called with what is being waited for."""

_END = 1.0
"""Least seconds between SIGTERM, which ends a third-party server at once, and SIGKILL."""
_LOOK_PAUSE = 0.1
_LOOKS = 4
"""Consecutive looks that must find no client: one may just be connecting."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """A stopped server. `was_killed`: it did not end by itself in `allowed` seconds."""

    record: ServerRecord
    was_killed: bool
    allowed: float


def chosen(
    *, name: str | None = None, backend: str | None = None, model: str | None = None
) -> list[ServerRecord]:
    """Return the one running server that matches, or nothing if no server runs at all.

    Raises Unavailable if servers run but none matches, UsageError if several match.
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
    """Stop each of these servers, and remove its record once it is gone.

    SIGKILL follows after `timeout` seconds (for each server); None means its `drain_timeout` plus a
    little for its exit. SIGTERM interrupts this as Ctrl-C does: a server that was not yet told to
    end keeps serving, and its record says so.
    """
    for record in records:
        with Interrupts.watched():
            stopped = _stop(record, timeout, show)
        with state_lock():
            remove_record(record)
        yield stopped


def _stop(record: ServerRecord, timeout: float | None, show: Show) -> Stopped:
    def on_wait(left: float) -> None:
        show(f"{record.name} finishes its requests, for {left:.0f} s at most")

    server, drain_timeout = server_of(record), record.serving.settings.drain_timeout
    _mark(record, is_stopping=True)
    try:
        drains = server.drains
        end_seconds = record.traits.end_seconds if drains else 0.0
        allowed = drain_timeout + end_seconds if timeout is None else timeout
        give_up = time.monotonic() + allowed
        has_clients = None if drains else _has_clients_until(give_up, server, on_wait)
    except BaseException:  # it was not told to end, and keeps serving
        _mark(record, is_stopping=False)
        raise
    end_within = max(0.0 if drains else _END, give_up - time.monotonic())
    try:
        was_killed = server.stop(end_within, on_wait)
    except StillRunning:
        raise
    except MlserveError:
        _mark(record, is_stopping=False)
        raise
    return Stopped(record, was_killed or has_clients is True, allowed)


def _has_clients_until(give_up: float, server: RunningServer, on_wait: OnWait) -> bool | None:
    """Wait until no client is connected and the server may be stopped; then return False.

    At `give_up` (a `time.monotonic()` value), returns True, or None if connections cannot be
    observed.
    """
    has_clients: bool | None = True
    looks = 0
    while (left := give_up - time.monotonic()) > 0:
        has_clients = server.has_clients()
        looks = looks + 1 if has_clients is False else 0
        if looks >= _LOOKS or not server.is_running():
            return False
        on_wait(left)
        time.sleep(min(_LOOK_PAUSE, left))
    return has_clients


def _mark(record: ServerRecord, *, is_stopping: bool) -> None:
    """Record on disk whether it is stopping, for commands that look for a server.

    If the state cannot be written, the server is stopped all the same.
    """
    with suppress(MlserveError), state_lock():
        if any(r.is_of_same_start(record) for r in read_records(_ignore)):
            write_record(replace(record, is_stopping=is_stopping))


def _ignore(_unreadable: str) -> None:
    """Ignore an unreadable record: it has been reported already."""
