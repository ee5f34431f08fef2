"""How much a connection may ask for that brings no call any further: a bucket that refills.

PING, SETTINGS, RESET, empty frames and the like cost the server about as much as their sender, and
more where each is answered. Calls that are answered and data that moves earn some of them.
"""

from __future__ import annotations

from collections.abc import Callable

from mlserve.server.port.grpc.frames import ENHANCE_YOUR_CALM, ConnectionFault

_MOST = 2000.0
_PER_SECOND = 100.0


class Patience:
    """The frames without use that a connection may still send."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = _MOST
        self._at = clock()

    def earn(self, frames: float) -> None:
        """Takes note of something useful."""
        self._left = min(_MOST, self._left + frames)

    def spend(self, frames: float = 1) -> None:
        """Takes note of something without use. Raises ConnectionFault when that was too much."""
        self._left -= frames
        if self._left < 0:
            now = self._clock()
            self._left = min(_MOST, self._left + (now - self._at) * _PER_SECOND)
            self._at = now
            if self._left < 0:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames that ask for nothing")
