"""The threads of the server that run calls: for the versions that have no processes."""

from __future__ import annotations

import asyncio
import atexit
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from threading import Thread
from typing import Any
from weakref import WeakSet

from mlserve.server.engine.work import Work, run_works
from mlserve.server.models.loading import Done

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """Works that a thread does one after another, or as a batch.

    When they have ended, the thread calls `follow`, which returns what it does next, if anything,
    and then has `done` called on the event loop's thread. Both get the sizes of the batches that
    ran, or the error of batching itself: a work's own is its `error`.
    """

    works: Sequence[Work[Any]]
    follow: Callable[[Sequence[int] | BaseException], Task | None]
    done: Done


class WorkerThreads:
    """A fixed number of threads, on which the works of all versions are done.

    They are no more than have been busy at once. At exit the process waits for what they do.
    """

    def __init__(self, count: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._count = count
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._busy = 0
        self._is_closed = False
        _EVERY.add(self)

    def submit(self, task: Task) -> None:
        """Do the task as soon as a thread is free.

        If the system starts no more threads, those that there are do it; without any, `done` gets
        the error.
        """
        self._busy += 1
        if len(self._threads) < min(self._busy, self._count):
            try:
                self._start_thread()
            except RuntimeError as error:
                if not self._threads:
                    self._loop.call_soon(self._on_done, task.done, error, True)
                    return
                _log.warning("%d threads run calls: %s", len(self._threads), error)
        self._tasks.put(task)

    def _start_thread(self) -> None:
        name = f"mlserve-run_{len(self._threads)}"
        thread = Thread(target=self._serve, name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def close(self) -> None:
        """Let the threads end, each after what it does now; none takes what follows."""
        self._is_closed = True
        for _ in self._threads:
            self._tasks.put(None)

    def join(self) -> None:
        """Wait until the threads have ended."""
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while (task := self._tasks.get()) is not None:
            while task is not None:
                task = self._do(task)

    def _do(self, task: Task) -> Task | None:
        ended: Sequence[int] | BaseException
        try:
            ended = run_works(task.works)
        except BaseException as error:  # noqa: BLE001 - `done` gets it
            ended = error
        following = None
        try:
            following = None if self._is_closed else task.follow(ended)
        except Exception:  # noqa: BLE001 - a fault of ours: the callers are told all the same
            _log.exception("a worker thread could not take the next call")
        with suppress(RuntimeError):  # the event loop is closed
            is_last = following is None
            self._loop.call_soon_threadsafe(self._on_done, task.done, ended, is_last)
        return following

    def _on_done(self, done: Done, ended: Sequence[int] | BaseException, is_last: bool) -> None:
        self._busy -= is_last
        done(ended)


_EVERY: WeakSet[WorkerThreads] = WeakSet()


@atexit.register
def _end_threads() -> None:
    """End the threads before the interpreter does: it would end them inside a runtime's code."""
    for threads in list(_EVERY):
        threads.close()
        threads.join()
