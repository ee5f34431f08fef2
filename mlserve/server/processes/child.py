"""The process that has a Runner: `python -m mlserve.server.processes.child SOCKET MEMORY LIFE`.

It is started by the server (`process`), never by users. It loads one version, then does one task at
a time, and ends when the server closes the connection or dies. It ignores the signals that stop a
server, which finishes its calls first: only then does it let this process go.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import os
import pickle
import select
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Any, cast

from mlserve.admission.estimates import CostKey
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, Unavailable
from mlserve.server import request
from mlserve.server.body_memory import Room
from mlserve.server.engine.work import Kept, Work, run_works
from mlserve.server.errors import as_known_error
from mlserve.server.models.ladders import open_served
from mlserve.server.models.loading import LoadedVersion
from mlserve.server.processes.channel import LEFT, LONG, Channel
from mlserve.server.processes.messages import (
    Aside,
    Failed,
    Load,
    Loaded,
    Order,
    Report,
    Result,
    Subject,
    Task,
    sendable,
)
from mlserve.server.request import RequestRecord, Span, StageTimes
from mlserve.server.telemetry.log import log_to_stderr
from mlserve.settings import LogFormat, ServerSettings
from mlserve.system import give_back_large_blocks

_AMPLE = 4.0
"""A call with that many times the seconds that such calls took so far is in time for sure."""
_UNCOUNTED = 2**20
"""Bytes that reading one body may take before each further part is asked for."""
_FORGETS = 0.95
"""The weight of what calls of a kind took before, against the newest."""


def main(argv: Sequence[str]) -> None:
    """Serve the connection whose descriptors are the arguments; return when it ends."""
    connection, memory, life = descriptors = tuple(map(int, argv[:3]))
    _outlive_the_servers_signals()
    _end_with_the_server(life)
    _keep_from_forks(descriptors)
    log_to_stderr(LogFormat(argv[3]))
    give_back_large_blocks()
    channel = Channel(socket.socket(fileno=connection), memory)
    with contextlib.suppress(EOFError):
        _serve(channel)


def _serve(channel: Channel) -> None:
    load: Load = channel.receive()
    for name in load.codecs:
        importlib.import_module(name)
    try:
        loaded = open_served(load.source, load.version)
        channel.send(Loaded.from_version(loaded))
    except MlserveError as error:
        channel.send(Failed(error))
        return
    tasks = _Tasks(channel, loaded)
    try:
        while True:
            tasks.do(channel.receive())
    finally:
        loaded.runner.close()


class _Tasks:
    """Does the tasks of one version, one after another."""

    def __init__(self, channel: Channel, loaded: LoadedVersion) -> None:
        self._channel = channel
        self._loaded = loaded
        self._settings: ServerSettings | None = None
        self._seconds: dict[CostKey, float] = {}

    def do(self, task: Task) -> None:
        """Do the works of a task and report how they went."""
        if task.settings is not None:
            self._settings = task.settings
        works = [self._work(place, order) for place, order in enumerate(task.orders)]
        sizes = run_works(works)
        places: dict[int, int] = {}
        results = []
        for work, order in zip(works, task.orders, strict=True):
            self._note_seconds(work)
            results.append(_result(work, order, places))
        self._channel.send(Report(results, sizes))

    def _work(self, place: int, order: Order) -> Work[Any]:
        assert self._settings is not None, "the first task has them"
        caller = _Caller(self._channel, place, self._seconds)
        work = Work(
            order.codec,
            self._loaded.served,
            self._loaded.runner,
            self._settings,
            order.kind,
            order.deadline,
            StageTimes(),
            caller,
        )
        work.entered_at, work.threads = order.entered_at, order.threads
        work.only_rung, work.keeps = order.only_rung, order.keeps
        order.codec.room = _RoomElsewhere(caller, order.deadline)
        return work

    def _note_seconds(self, work: Work[Any]) -> None:
        if work.error is None:
            kind = work.read_as.climbing(work.has_climbed)
            before = self._seconds.get(kind, 0.0)
            self._seconds[kind] = max(before * _FORGETS, work.times.run)


class _Caller:
    """The caller of a work, who is in the server's process: asked through the connection."""

    def __init__(self, channel: Channel, place: int, seconds: dict[CostKey, float]) -> None:
        self._channel = channel
        self._place = place
        self._seconds = seconds

    def has_left(self) -> bool:
        return bool(self._channel.board[LEFT + self._place])

    def enter(self, stage: int) -> None:
        self._channel.board[self._place] = stage

    def find_fault(self, kind: CostKey, deadline: Deadline) -> MlserveError | None:
        """Ask the server, unless there is ample time by what such calls took here."""
        seconds = self._seconds.get(kind)
        if seconds is not None and deadline.remaining() > _AMPLE * seconds:
            return None
        try:
            self.ask(Subject.FAULT, kind, deadline)
        except MlserveError as error:
            return error
        return None

    def bring_forward(self, work: Work[Any]) -> None:
        self._channel.send(Aside(Subject.SOONER, self._place, (work.deadline,)))

    def ask(self, subject: Subject, *values: Any) -> None:
        """Ask about this call. Raises the error that the server answers with."""
        self._channel.send(Aside(subject, self._place, values))
        answer = self._channel.receive()
        if isinstance(answer, Failed):
            raise answer.error


class _RoomElsewhere(Room):
    """The memory and time for reading one body. The server counts all but the first part of it."""

    def __init__(self, caller: _Caller, deadline: Deadline) -> None:
        self._caller = caller
        self._deadline = deadline
        self._free = _UNCOUNTED

    def take(self, size: int) -> None:
        self._free -= size
        if self._free < 0:
            self._caller.ask(Subject.ROOM, size)

    def give_back(self, size: int) -> None:
        if size > _UNCOUNTED:
            self._caller.ask(Subject.ROOM, -size)

    def require_time(self) -> None:
        self._deadline.require("reading the request")
        if self._caller.has_left():
            raise Unavailable("the client disconnected")


def _result(work: Work[Any], order: Order, places: dict[int, int]) -> Result:
    """Return how a work went. `places` numbers the executions, which works of a batch share."""
    error = None if work.error is None else _known(work.error, order)
    execution = work.execution
    if execution is not None:
        place = places.setdefault(id(execution), len(places))
    return Result(
        None if error is not None else sendable(work.result),
        error,
        work.read_as,
        None if work.signature is None else work.signature.name,
        work.times.values,
        None if execution is None else (place, execution.rows),
        work.rungs,
        _kept(work),
    )


def _kept(work: Work[Any]) -> Kept | None:
    """Return what the work keeps, unless copying it would delay the answer that goes with it."""
    kept = work.kept
    return kept if kept is not None and kept.length < LONG else None


def _known(error: Exception, order: Order) -> MlserveError:
    """Return the error as one of core's: the server need not have what a plugin defines."""
    request.begin(RequestRecord(order.request_id, Span(order.trace_id, "", "", "")))
    known = as_known_error(error)
    kind = next(kind for kind in type(known).__mro__ if kind.__module__.startswith("mlserve."))
    plain: Any = kind.__new__(kind, known.message)
    plain.__dict__ = {name: v for name, v in known.__dict__.items() if _can_travel(v)}
    plain.__dict__.setdefault("details", {})
    return cast(MlserveError, plain)


def _can_travel(value: object) -> bool:
    """Return whether a part of an error can be sent: a plugin may have put anything into it."""
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - whatever it raises
        return False
    return True


def _outlive_the_servers_signals() -> None:
    """Ignore what a terminal or a supervisor sends to the whole group to stop a server."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _end_with_the_server(life: int) -> None:
    """Have the kernel kill this process as soon as the other end of the pipe is closed.

    That is when the server has ended, however it did. A thread that waits for it would not be
    enough: it does not run in a stopped process, nor while a runtime keeps the interpreter's lock.
    """
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([life], [], [], 0)[0]:  # the server ended before this was set up
        os._exit(0)


def _keep_from_forks(descriptors: Sequence[int]) -> None:
    """Keep the connection from processes that the Runner starts.

    One that had it could speak in place of this process, and would hide its end from the server.
    """
    nowhere = os.open(os.devnull, os.O_RDWR)

    def let_go() -> None:
        for descriptor in descriptors:
            os.dup2(nowhere, descriptor, inheritable=False)

    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    os.register_at_fork(after_in_child=let_go)


if __name__ == "__main__":
    main(sys.argv[1:])
