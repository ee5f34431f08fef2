"""What the event loop takes of the machine: it receives, admits, refuses and answers calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from mlserve.system import usable_cpus

_EVERY = 0.25
"""Seconds between two looks at the clocks."""
_WEIGHT = 1 / 8
"""The weight of the last look: what was two seconds ago counts for a third."""


class Overhead:
    """Tells `note` every now and then the part of all CPUs that the event loop used lately.

    It is the loop, and the thread, that this was made on.
    """

    def __init__(self, note: Callable[[float], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._note = note
        self._cpus = usable_cpus()
        self._part = 0.0
        self._looked_at, self._cpu = self._loop.time(), time.thread_time()
        self._timer = self._loop.call_later(_EVERY, self._look)

    def close(self) -> None:
        """Look no more: the loop may go on, as that of an application around us."""
        self._timer.cancel()

    def _look(self) -> None:
        now, cpu = self._loop.time(), time.thread_time()
        used = (cpu - self._cpu) / (now - self._looked_at) / self._cpus
        self._part += _WEIGHT * (min(1.0, used) - self._part)
        self._looked_at, self._cpu = now, cpu
        self._note(self._part)
        self._timer = self._loop.call_later(_EVERY, self._look)
