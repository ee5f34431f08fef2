"""End calls at their deadlines, with one timer for all of them.

A timer for each call would be set and cancelled for each, and asyncio keeps a cancelled one until
it would have fired: with a deadline of 30 s, tens of thousands of them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from typing import Any

from mlserve.server.engine.job import Job


class Deadlines:
    """Calls `expire` for each watched job whose deadline has passed, on the event loop's thread."""

    def __init__(self, expire: Callable[[Job[Any]], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._expire = expire
        self._jobs: set[Job[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._rings_at = math.inf

    def watch(self, job: Job[Any]) -> None:
        """Watch the job until `forget`."""
        self._jobs.add(job)
        if job.expires_at < self._rings_at:
            self._ring_at(job.expires_at)

    def forget(self, job: Job[Any]) -> None:
        """Watch the job no longer; the timer stays, for those that will be watched by then."""
        self._jobs.discard(job)

    def _ring_at(self, time_: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = time_
        self._timer = self._loop.call_at(time_, self._on_ring)

    def _on_ring(self) -> None:
        now = self._loop.time()
        self._timer, self._rings_at = None, math.inf
        for job in [job for job in self._jobs if job.expires_at <= now]:
            self._expire(job)
            self._jobs.discard(job)
        if self._jobs:
            self._ring_at(min(job.expires_at for job in self._jobs))
