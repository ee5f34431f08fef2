"""Daemon threads, for work that must not delay a deadline, an event loop or process exit."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from threading import Lock, Thread
from typing import Any, NoReturn, ParamSpec, TypeVar

from mlserve.deadline import Deadline
from mlserve.errors import ExitCode

T = TypeVar("T")
P = ParamSpec("P")
_GRACE = 0.12
"""Seconds given to a call on the background loop to report its own, better error."""


def start_on_daemon_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """Start `work` on a thread of its own and return the future result."""
    future: Future[T] = Future()

    def run() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(work(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001  it is raised where the result is awaited
            future.set_exception(error)

    Thread(target=run, daemon=True, name="mlserve-background").start()
    return future


async def run_on_daemon_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Await `work` on a thread of its own and return its result.

    For work that can take minutes and cannot be interrupted, such as loading a model or reading a
    file on an unreachable network share: process exit waits for the threads of `asyncio.to_thread`.
    If the caller is cancelled, the work goes on and its result is dropped.
    """
    return await asyncio.wrap_future(start_on_daemon_thread(work, *args, **kwargs))


def run_within(deadline: Deadline, doing: str, work: Callable[[], T]) -> T:
    """Return the result of blocking `work`. Raises DeadlineExceeded while `doing` it."""
    return _result(start_on_daemon_thread(work), deadline, doing, grace=0.0)


def run_on_loop(deadline: Deadline, doing: str, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that watches the deadline itself, from outside any event loop.

    It runs on the process's one background loop, so this works inside a running event loop too. The
    deadline is watched here as well, in case the loop itself is blocked.
    """
    future = asyncio.run_coroutine_threadsafe(work, background_loop())
    return _result(future, deadline, doing, grace=_GRACE)


def _result(future: Future[T], deadline: Deadline, doing: str, *, grace: float) -> T:
    try:
        return future.result(max(0.0, deadline.remaining()) + grace)
    except FutureTimeout:
        if future.done() and not future.cancelled():
            return future.result()  # it ended at this moment, or it raised a TimeoutError itself
        future.cancel()
        raise deadline.exceeded(doing) from None
    except KeyboardInterrupt:
        future.cancel()
        raise


class _DaemonExecutor(ThreadPoolExecutor):
    """An executor for name look-ups whose threads do not delay the interpreter's exit."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return start_on_daemon_thread(fn, *args, **kwargs)


_lock = Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def _after_fork() -> None:
    """Replace the lock: a thread that does not exist in the child may hold the parent's."""
    global _lock  # noqa: PLW0603  there is one loop for all
    _lock = Lock()


os.register_at_fork(after_in_child=_after_fork)


def background_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop, on a daemon thread, that all sync clients of this process share."""
    with _lock:
        loop = _loops.get(os.getpid())  # a forked child has no such thread
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            loop.set_default_executor(_DaemonExecutor(max_workers=1))
            Thread(target=loop.run_forever, daemon=True, name="mlserve-client").start()
        return loop


def end_process(code: ExitCode) -> NoReturn:
    """End the process now, even with threads running."""
    logging.shutdown()
    os._exit(int(code))
