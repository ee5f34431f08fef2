"""Notice when this process stood still: stopped, frozen with its container, or starved of CPU.

What arrived in that time is read only afterwards, and looks younger than it is.
"""

from __future__ import annotations

import asyncio
import time

_EVERY = 0.1
"""Seconds between two looks at the clocks."""
_STALL = 0.3
"""Seconds without a look that may be a stall."""
_IDLE = 0.3
"""The most CPU time of a stall, as a share of it. A model that keeps the event loop from its work
for so long uses more: it does not stand still, and its callers' patience can be learned."""
_CATCH_UP = 0.1
"""Seconds after a stall in which connections made during it are still being read."""


class Stalls:
    """The last stall of the event loop that it was made on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._looked_at, self._cpu = self._loop.time(), time.process_time()
        self._ended_at = 0.0
        self._timer = self._loop.call_later(_EVERY, self._look)

    def since(self, moment: float) -> bool:
        """Return whether there was a stall at that time of the monotonic clock, or since then."""
        return moment < self._ended_at + _CATCH_UP or self._ends(self._loop.time())

    def _look(self) -> None:
        now = self._loop.time()
        if self._ends(now):
            self._ended_at = now
        self._looked_at, self._cpu = now, time.process_time()
        self._timer = self._loop.call_later(_EVERY, self._look)

    def close(self) -> None:
        """Look no more: the loop may go on, as that of an application around us."""
        self._timer.cancel()

    def _ends(self, now: float) -> bool:
        """Return whether a stall has just ended, after the last look."""
        gap = now - self._looked_at
        return gap > _STALL and time.process_time() - self._cpu < _IDLE * gap
