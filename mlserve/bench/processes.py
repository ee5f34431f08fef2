"""Run a load in as many processes as it takes: Python sends some thousand requests a second."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import get_context
from types import TracebackType

from mlserve.bench.load import SPARE_FILES, ClosedLoop, Load, Share, Window, run_load
from mlserve.bench.tally import Tally
from mlserve.bench.target import Target
from mlserve.errors import UsageError
from mlserve.launch.signals import Interrupts
from mlserve.system import allow_open_files, usable_cpus

_RATE_OF_ONE = 4000.0
"""Requests a second that one process sends with room to spare."""
_CLIENTS_OF_ONE = 64
_START = 0.1
"""Seconds until all processes have their share of a load."""
_FIRST_START = 1.5
"""The same for new processes, which have to import everything."""


class LoadProcesses(AbstractContextManager["LoadProcesses"]):
    """Where loads run: in this process, or in `count` others; None chooses for each load."""

    def __init__(self, count: int | None = None) -> None:
        self._count = count
        self._pool: ProcessPoolExecutor | None = None
        self._size = 0

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def run(self, target: Target, load: Load, window: Window) -> Tally:
        """Run a load and return what became of it; after an interrupt, of what was measured."""
        count = self._count or processes_for(load)
        if count == 1:
            return run_load(target, load, window)
        pool, wait = self._of_size(count)
        start = time.monotonic() + wait
        shares = [Share(index, count, start) for index in range(count)]
        futures: list[Future[Tally]] = []
        try:
            with _interrupts_kept():  # these start the processes
                futures += [pool.submit(_run_share, target, load, window, each) for each in shares]
            return Tally.of_processes(future.result() for future in futures)
        except KeyboardInterrupt:
            self._interrupt(pool)
            return Tally.of_processes(future.result() for future in futures)

    def _of_size(self, count: int) -> tuple[ProcessPoolExecutor, float]:
        if self._pool is not None and self._size == count:
            return self._pool, _START
        if self._pool is not None:
            self._pool.shutdown()
        self._size = count
        self._pool = ProcessPoolExecutor(count, get_context("spawn"), initializer=_note_interrupts)
        return self._pool, _FIRST_START

    def _interrupt(self, pool: ProcessPoolExecutor) -> None:
        """Pass Ctrl-C on: from a terminal they have it already, from `kill` they do not."""
        for pid in list(pool._processes):  # noqa: SLF001  there is no other way to them
            os.kill(pid, signal.SIGINT)


def processes_for(load: Load) -> int:
    """Return how many processes a load takes; never more than this machine has CPUs."""
    if isinstance(load, ClosedLoop):
        wanted = -(-load.concurrency // _CLIENTS_OF_ONE)
    else:
        wanted = int(-(-load.rate // _RATE_OF_ONE))
    return max(1, min(wanted, usable_cpus()))


def require_files(load: Load, processes: int | None) -> None:
    """Raise UsageError if the system allows no connection for each client of a load.

    The limit of this process and of those that it starts is raised as far as that is possible.
    """
    if not isinstance(load, ClosedLoop):
        return
    clients = -(-load.concurrency // (processes or processes_for(load)))
    allowed = allow_open_files(clients + SPARE_FILES)
    if allowed < clients + SPARE_FILES:
        raise UsageError(
            f"{load} need {clients + SPARE_FILES} open files in a process, and the system allows "
            f"{allowed}",
            hint="take fewer clients, more --processes, or a larger limit: ulimit -n",
        )


@contextmanager
def _interrupts_kept() -> Iterator[None]:
    """Raise Ctrl-C after the block: in processes that are started there, once they can bear it.

    They take over what is blocked. For this process that is not enough: another thread may take the
    signal, and Python raises it in the main thread all the same.
    """
    with Interrupts.watched() as interrupts, interrupts.held():
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


_interrupts: list[int] = []
"""The signals that this process got between its loads."""


def _note_interrupts() -> None:
    """Let no Ctrl-C end this process: a load returns what it has measured, or does not begin."""
    signal.signal(signal.SIGINT, lambda number, _frame: _interrupts.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _run_share(target: Target, load: Load, window: Window, share: Share) -> Tally:
    if _interrupts:
        return Tally(is_whole=False)
    return run_load(target, load, window, share)
