"""Notice when this process stood still: stopped, starved of CPU, or its machine suspended.

What arrived in that time is read only afterwards, and looks younger than it is.
"""

from __future__ import annotations

import asyncio

_EVERY = 0.1
"""Seconds between two looks at the clock."""
_STALL = 0.3
"""Seconds without a look that count as a stall."""
_CATCH_UP = 0.1
"""Seconds after a stall in which connections made during it are still being read."""


class Stalls:
    """The last stall of the event loop that it was made on."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._looked_at = self._loop.time()
        self._ended_at = 0.0
        self._look()

    def since(self, moment: float) -> bool:
        """Return whether there was a stall at that time of the monotonic clock, or since then."""
        if self._loop.time() - self._looked_at > _STALL:
            return True  # it ended just now
        return moment < self._ended_at + _CATCH_UP

    def _look(self) -> None:
        now = self._loop.time()
        if now - self._looked_at > _STALL:
            self._ended_at = now
        self._looked_at = now
        self._loop.call_later(_EVERY, self._look)
