"""One thread that stops work whose deadline passes, for all the work of a process.

A runtime that can be interrupted has to be told to by another thread. A `threading.Timer` for each
call would start and end a thread, which takes longer than a small model.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from threading import Condition, Lock, Thread
from types import TracebackType

from mlserve.deadline import Deadline


class Watchdog:
    """Calls `stop` for each piece of watched work that is still running at its deadline."""

    def __init__(self) -> None:
        self._changed = Condition(Lock())
        self._running: dict[Watched, None] = {}
        self._wakes_at = math.inf
        """When the thread looks next; it is there from the first watched work on."""
        self._thread: Thread | None = None

    def watch(self, deadline: Deadline, stop: Callable[[], None]) -> Watched:
        """Return a context: when the deadline passes inside, `stop` is called, on another thread.

        `stop` must be quick and must not raise.
        """
        return Watched(self, deadline.expires_at, stop)

    def enter(self, work: Watched) -> None:
        """Begin to watch."""
        with self._changed:
            self._running[work] = None
            if work.expires_at < self._wakes_at:
                self._wakes_at = work.expires_at
                self._changed.notify()
            if self._thread is None:
                self._thread = Thread(target=self._look, daemon=True, name="mlserve-watchdog")
                self._thread.start()

    def leave(self, work: Watched) -> None:
        """Watch no longer. The thread still wakes at that deadline, and finds nothing to do."""
        with self._changed:
            self._running.pop(work, None)

    def _look(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for work in [work for work in self._running if work.expires_at <= now]:
                    del self._running[work]
                    work.stop()
                self._wakes_at = min((w.expires_at for w in self._running), default=math.inf)
                left = self._wakes_at - now
                self._changed.wait(None if left == math.inf else max(0.0, left))


class Watched:
    """A piece of work with a deadline: a context in which it runs."""

    __slots__ = ("_watchdog", "expires_at", "stop")

    def __init__(self, watchdog: Watchdog, expires_at: float, stop: Callable[[], None]) -> None:
        self._watchdog = watchdog
        self.expires_at = expires_at
        self.stop = stop

    def __enter__(self) -> None:
        self._watchdog.enter(self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._watchdog.leave(self)


_watchdog = Watchdog()


def _after_fork() -> None:
    """Start anew: the thread does not exist in the child."""
    global _watchdog  # noqa: PLW0603  there is one for all
    _watchdog = Watchdog()


os.register_at_fork(after_in_child=_after_fork)


def stopped_at(deadline: Deadline, stop: Callable[[], None]) -> Watched:
    """Return a context that calls `stop`, on another thread, if the deadline passes inside."""
    return _watchdog.watch(deadline, stop)
