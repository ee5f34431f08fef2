"""The runner processes of one version: which of them runs what, and what happens when one dies.

A process runs one task at a time: a call, or a batch of them. When a process dies, its calls are
run again by another one, each alone; a call that was in two processes which died gets Unavailable,
as it may be what ends them. A process that died is replaced at once, and later if its replacements
die young too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any

from mlserve.background import run_on_daemon_thread
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, Unavailable
from mlserve.server.engine.work import Work
from mlserve.server.errors import as_known_error
from mlserve.server.models.loading import Done, ProcessState
from mlserve.server.models.versions import ModelSpec
from mlserve.server.processes.channel import pack
from mlserve.server.processes.messages import (
    Aside,
    Failed,
    Loaded,
    Report,
    Subject,
    Task,
)
from mlserve.server.processes.process import RunnerProcess
from mlserve.server.processes.runs import Batch, Line, Place, Run, change_room, order_of
from mlserve.settings import LogFormat, ServerSettings
from mlserve.tensors import Signature

if TYPE_CHECKING:
    from mlserve.backend import Tensors

_log = logging.getLogger(__name__)
_YOUNG = 10.0
"""A process that dies before it is so many seconds old is replaced with a delay."""
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 30.0
"""Seconds until a replacement that died young is replaced: twice as long each time."""
_MOST_DOUBLINGS = 10


class RunnerProcesses:
    """A Runner whose calls run in processes, and the workers that run them.

    `start` is for any thread, all else for the event loop's.
    """

    def __init__(
        self,
        source: ModelSpec,
        version: int,
        count: int,
        log_format: LogFormat,
        on_change: Callable[[], None],
        nice: int = 0,
    ) -> None:
        """Describe them; `nice` is by how much they give way to others for a CPU (nice(2))."""
        self._started_with = source, version, log_format, nice
        self._name = f"version {version} of {source.model}"
        self._count = count
        self._loop: asyncio.AbstractEventLoop | None = None
        self._processes: list[RunnerProcess] = []
        self._idle: list[RunnerProcess] = []
        self._running: dict[RunnerProcess, Run] = {}
        self._queue: deque[Run] = deque()
        self._line = Line(self._look_who_left)
        self._is_feeding = False
        self._settings: dict[RunnerProcess, ServerSettings] = {}
        self._replacing: set[asyncio.Task[None]] = set()
        self._starting: set[RunnerProcess] = set()
        self._closing = asyncio.Event()
        self.restarts = 0
        """How many processes died and were replaced."""
        self._on_change = on_change
        self.signatures: Mapping[str, Signature] = {}
        self._loaded: Loaded | None = None

    def start(self) -> None:
        """Start all processes and wait until each has loaded the version.

        Raises the error of one that has not, after the others were ended.
        """
        started: list[RunnerProcess] = []
        try:
            started.extend(RunnerProcess(*self._started_with) for _ in range(self._count))
            with ThreadPoolExecutor(self._count) as waiting:
                for loaded in waiting.map(RunnerProcess.load, started):
                    self._describe(loaded)
        except BaseException:
            _end(started)
            raise
        self._processes = started

    def abandon(self) -> None:
        """End what `start` has started, before `attach`; on any thread."""
        _end(self._processes)

    def attach(self) -> None:
        """Take calls from now on, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        for process in self._processes:
            self._take_on(process)

    @property
    def is_alive(self) -> bool:
        """Whether any process can run a call."""
        return bool(self._processes)

    @property
    def states(self) -> Sequence[ProcessState]:
        """The processes that are alive."""
        return [ProcessState(p.pid, p in self._running) for p in self._processes]

    def submit(self, works: Sequence[Work[Any]], done: Done) -> None:
        """Do the works in one process as soon as one is idle; then call `done`."""
        batch = Batch(len(works), done)
        for work in works:
            work.elsewhere = self._line
        self._queue.append(Run(works, batch))
        self._feed()

    def run(self, signature: str, inputs: Tensors, deadline: Deadline | None = None) -> Tensors:
        """Raise RuntimeError: calls go through `submit`."""
        raise RuntimeError("the Runner is in another process")

    def close(self) -> None:
        """End the processes, from another thread than the event loop's; nothing runs any more."""
        loop = self._loop
        assert loop is not None
        ended = asyncio.run_coroutine_threadsafe(self._close(), loop).result()
        for process in ended:
            process.cause()

    async def end(self) -> None:
        """End the processes at once, whatever they run: nobody waits for it any more."""
        processes = await self._close()
        for process in processes:
            process.kill()
        for process in processes:
            await run_on_daemon_thread(process.cause)

    async def _close(self) -> list[RunnerProcess]:
        self._closing.set()
        processes, self._processes, self._idle = self._processes, [], []
        for process in processes:
            process.detach()
        for process in list(self._starting):
            process.kill()  # while it loads, it does not hear that the connection is closed
        if self._replacing:
            await asyncio.wait(self._replacing)
        return processes

    def _describe(self, loaded: Loaded) -> None:
        """Take over what a process says of its Runner. Raises Unavailable if others said else."""
        if self._loaded is not None:
            self._loaded.require_same(loaded, self._name)
            return
        self._loaded = loaded
        self.signatures = loaded.signatures
        self.judges_shapes = loaded.judges_shapes
        self.batching = loaded.batching
        self.runs_on = loaded.runs_on
        if loaded.definitions is not None:
            self.definitions = loaded.definitions

    def _take_on(self, process: RunnerProcess) -> None:
        process.attach(self._on_message, self._on_end)
        self._idle.append(process)

    def _feed(self) -> None:
        """Give waiting runs to idle processes.

        A run that nobody waits for ends here, at which the engine submits the next. That one only
        joins the queue, as many may end so, and each inside the one before would be too deep.
        """
        if self._is_feeding:
            return
        self._is_feeding = True
        try:
            while self._idle and self._queue:
                run = self._queue.popleft()
                if run.keep_wanted():
                    self._give(self._idle[-1], run)
        finally:
            self._is_feeding = False

    def _look_who_left(self) -> None:
        """End what waits and nobody waits for any more: its slot is for others, of any model."""
        for run in list(self._queue):
            if not run.keep_wanted() and run in self._queue:
                self._queue.remove(run)

    def _give(self, process: RunnerProcess, run: Run) -> None:
        settings = run.works[0].settings
        is_known = self._settings.get(process) is settings
        orders = [order_of(work) for work in run.works]
        try:
            packet = pack(Task(orders, None if is_known else settings))
        except Exception as error:  # noqa: BLE001 - for want of memory, say: the call must end
            run.fail(as_known_error(error))
            return
        self._settings[process] = settings
        self._idle.remove(process)
        for place, work in enumerate(run.works):
            work.elsewhere = Place.begin(process.channel, place)
        self._running[process] = run
        if packet.is_long:
            process.tell(packet, run.let_go)
        else:
            process.tell(packet)

    def _on_message(self, process: RunnerProcess, message: Any) -> None:
        run = self._running[process]
        if isinstance(message, Aside):
            self._answer(process, run.works[message.place], message)
            return
        assert isinstance(message, Report)
        del self._running[process]
        self._idle.append(process)
        run.take(message)
        self._feed()

    def _answer(self, process: RunnerProcess, work: Work[Any], aside: Aside) -> None:
        """Answer what a process asks about a call that it is doing."""
        if aside.subject is Subject.SOONER:
            (work.deadline,) = aside.values
            work.caller.bring_forward(work)
            return
        error: MlserveError | None = None
        if aside.subject is Subject.FAULT:
            error = work.caller.find_fault(*aside.values)
        else:
            error = change_room(work, *aside.values)
        process.tell(pack(None if error is None else Failed(error)))

    def _on_end(self, process: RunnerProcess) -> None:
        """Replace a process that died, and run its calls again."""
        self._processes.remove(process)
        if process in self._idle:
            self._idle.remove(process)
        self._settings.pop(process, None)
        run = self._running.pop(process, None)
        for again in reversed([] if run is None else run.after_death(process.pid)):
            for work in again.works:
                work.elsewhere = self._line
            self._queue.appendleft(again)
        process.detach()
        self._replace(process)
        if not self._processes:
            self._on_change()
        self._feed()

    def _replace(self, process: RunnerProcess) -> None:
        assert self._loop is not None
        # No context: what it logs belongs to no request.
        task = self._loop.create_task(self._replaced(process), context=Context())
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    async def _replaced(self, process: RunnerProcess) -> None:
        is_young = time.monotonic() - process.started_at < _YOUNG
        early_deaths = process.early_deaths + 1 if is_young else 0
        cause = await run_on_daemon_thread(process.cause)
        delay = 0.0
        if early_deaths > 1:
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(early_deaths - 2, _MOST_DOUBLINGS))
        _log.error(
            "the process %d of %s has ended (%s); another one is started%s",
            process.pid,
            self._name,
            cause,
            f" in {delay:g} s" if delay else "",
        )
        self._fail_waiting_if_none_is_left(cause if delay else "")
        while not await self._is_closed_within(delay):
            try:
                fresh = await run_on_daemon_thread(self._start_one)
                break
            except Exception as error:  # noqa: BLE001 - whatever it is, calls wait for a process
                if self._closing.is_set():
                    return
                delay = min(_LONGEST_DELAY, max(_FIRST_DELAY, 2 * delay))
                _log.error("%s has no new process (%s); next try in %g s", self._name, error, delay)
                self._fail_waiting_if_none_is_left(str(error))
        else:
            return
        if self._closing.is_set():
            fresh.detach()
            await run_on_daemon_thread(fresh.cause)
            return
        fresh.early_deaths = early_deaths
        self.restarts += 1
        self._processes.append(fresh)
        self._take_on(fresh)
        self._on_change()
        self._feed()

    async def _is_closed_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)
        return self._closing.is_set()

    def _start_one(self) -> RunnerProcess:
        process = RunnerProcess(*self._started_with)
        self._starting.add(process)
        try:
            if self._closing.is_set():  # before `close` could see the process
                raise Unavailable(f"{self._name} is being unloaded")
            self._describe(process.load())
        except BaseException:
            process.detach()
            process.kill()
            process.cause()
            raise
        finally:
            self._starting.discard(process)
        return process

    def _fail_waiting_if_none_is_left(self, why: str) -> None:
        """Refuse what waits if no process is left and none is started soon, which is `why`."""
        if not why or self._processes:
            return
        runs, self._queue = self._queue, deque()
        for run in runs:
            run.fail(
                Unavailable(
                    f"{self._name} has no process left to run it: {why}",
                    hint="the server's log says why; it goes on trying",
                )
            )


def _end(processes: Sequence[RunnerProcess]) -> None:
    for process in processes:
        process.detach()
        process.kill()
    for process in processes:
        process.cause()
