"""What the operating system gives a process: daemon threads, usable CPUs, memory."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import math
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from pathlib import Path
from threading import Lock, Thread
from typing import Any, NoReturn, ParamSpec, TypeVar

import psutil

from mlserve.deadline import Deadline
from mlserve.errors import ExitCode

T = TypeVar("T")
P = ParamSpec("P")
_GRACE = 0.12
"""Seconds that a call on the background loop has to report its own, better error."""


def on_daemon_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """The future result of `work`, which runs on a thread of its own."""
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


def run_within(deadline: Deadline, doing: str, work: Callable[[], T]) -> T:
    """The result of blocking `work`, or DeadlineExceeded while `doing` it."""
    return _result(on_daemon_thread(work), deadline, doing, grace=0.0)


def run_on_loop(deadline: Deadline, doing: str, work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that watches the deadline itself, from outside of any event loop.

    It runs on the process's one background loop, so this works inside a running event loop too. The
    deadline is watched here as well, for the case that the loop itself is held up.
    """
    future = asyncio.run_coroutine_threadsafe(work, background_loop())
    return _result(future, deadline, doing, grace=_GRACE)


def _result(future: Future[T], deadline: Deadline, doing: str, *, grace: float) -> T:
    try:
        return future.result(max(0.0, deadline.remaining()) + grace)
    except FutureTimeout:
        if future.done() and not future.cancelled():
            raise  # the work itself raised it
        future.cancel()
        raise deadline.exceeded(doing) from None
    except KeyboardInterrupt:
        future.cancel()
        raise


class _DaemonExecutor(ThreadPoolExecutor):
    """An executor whose threads the interpreter's exit does not wait for, for name look-ups."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return on_daemon_thread(fn, *args, **kwargs)


_lock = Lock()
_loops: dict[int, asyncio.AbstractEventLoop] = {}


def _after_fork() -> None:
    """Replaces the lock: a thread that the child does not have may hold the parent's."""
    global _lock  # noqa: PLW0603  there is one loop for all
    _lock = Lock()


os.register_at_fork(after_in_child=_after_fork)


def background_loop() -> asyncio.AbstractEventLoop:
    """The event loop on a daemon thread that all sync clients of this process share."""
    with _lock:
        loop = _loops.get(os.getpid())  # a forked child has no such thread
        if loop is None:
            loop = _loops[os.getpid()] = asyncio.new_event_loop()
            loop.set_default_executor(_DaemonExecutor(max_workers=1))
            Thread(target=loop.run_forever, daemon=True, name="mlserve-client").start()
        return loop


Result = TypeVar("Result")


def end_process(code: ExitCode) -> NoReturn:
    """Ends the process now, with threads still running."""
    logging.shutdown()
    os._exit(int(code))


async def in_daemon_thread(work: Callable[[], Result]) -> Result:
    """What `work` returns, run on a daemon thread.

    For work that can take minutes and cannot be interrupted, such as loading a model or a look into
    a folder of a network share that is away: the threads of `asyncio.to_thread` are waited for when
    the process ends.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Result] = loop.create_future()

    def finish(result: Result | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        try:
            outcome: tuple[Result | None, BaseException | None] = work(), None
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is awaited
            outcome = None, error
        if not loop.is_closed():
            loop.call_soon_threadsafe(finish, *outcome)

    threading.Thread(target=run, name="mlserve-load", daemon=True).start()
    return await done


_CGROUP = Path("/sys/fs/cgroup")


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """The CPUs of the scheduler's affinity mask, or of the cgroup's quota where that is less."""
    allowed = len(os.sched_getaffinity(0))
    quota = _quota_v2(cgroup) or _quota_v1(cgroup)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota_v2(cgroup: Path) -> float | None:
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _quota_v1(cgroup: Path) -> float | None:
    quota, period = (_read(cgroup / "cpu" / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""  # no cgroup of that kind here: there is no quota


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
_MEMORY_FILES = ("memory.max", "memory/memory.limit_in_bytes")
_UNLIMITED = 2**60
"""Limits from here on mean none: version 1 of the cgroups writes a huge number for it."""
_MAPPED = 2 * 2**20
_TRIMMED = 4 * 2**20


def give_back_large_blocks() -> None:
    """Makes glibc's malloc map blocks of 2 MiB and more by themselves, and unmap them when freed.

    Left alone, it raises that limit to 32 MiB as such blocks are freed, and keeps up to twice as
    much of each heap: the pixels of one large image stay in the server's memory. Does nothing where
    the C library has no `mallopt`.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MAPPED)
        mallopt(_M_TRIM_THRESHOLD, _TRIMMED)


def usable_memory() -> int:
    """The bytes that this process may use: the machine's, or the cgroup's where that is less."""
    total, limit = psutil.virtual_memory().total, memory_limit()
    return int(total if limit is None else min(total, limit))


def memory_limit(cgroup: Path = _CGROUP) -> int | None:
    """The bytes that the cgroup allows; None when it sets no limit."""
    for name in _MEMORY_FILES:
        try:
            text = (cgroup / name).read_text().strip()
        except OSError:
            continue  # the other version of the cgroups
        return int(text) if text.isdigit() and int(text) < _UNLIMITED else None
    return None
