"""Wake the event loop at a moment, to 0.1 ms: asyncio's own timers round up to whole ones."""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import sys
from collections.abc import Callable

_CLOCK_MONOTONIC, _ABSOLUTE, _NONBLOCK = 1, 1, os.O_NONBLOCK  # time.h and sys/timerfd.h
_BILLION = 10**9
_COUNT = 8  # bytes that a timerfd gives


class _Spec(ctypes.Structure):
    """`struct itimerspec`: an interval of 0, and the moment."""

    _fields_ = (
        ("interval_s", ctypes.c_long),
        ("interval_ns", ctypes.c_long),
        ("s", ctypes.c_long),
        ("ns", ctypes.c_long),
    )


class Alarm:
    """Calls `ring` at the moment that was set last, by a timerfd where the system has that."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._libc = ctypes.CDLL(None) if sys.platform == "linux" else None
        self._file = -1
        if self._libc is not None:
            self._file = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK)
        if self._file >= 0:
            self._loop.add_reader(self._file, self._came)

    def set(self, moment: float) -> None:
        """Ring at this moment of the loop's clock, or at once if it is over."""
        if self._file < 0:
            self._loop.call_at(moment, self._ring)
            return
        whole = math.floor(moment)
        spec = _Spec(0, 0, whole, max(1, int((moment - whole) * _BILLION)))
        assert self._libc is not None
        self._libc.timerfd_settime(self._file, _ABSOLUTE, ctypes.byref(spec), None)

    def close(self) -> None:
        """Ring no more."""
        if self._file >= 0:
            self._loop.remove_reader(self._file)
            os.close(self._file)

    def _came(self) -> None:
        os.read(self._file, _COUNT)
        self._ring()
