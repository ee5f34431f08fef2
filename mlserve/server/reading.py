"""What the reading of one request may use: memory and time. Asked before each step that takes some.

Reading runs on a worker's thread in pieces of at most some milliseconds, so that the event loop
gets its turn in between: one long call into C would stop every connection and the health checks.
"""

from __future__ import annotations

PIECE = 64 * 2**10
"""Bytes or characters that are parsed, unpacked or copied at once: a few milliseconds at most."""


class Room:
    """Room without bounds, for requests whose memory is bounded elsewhere."""

    def take(self, size: int) -> None:
        """Counts that many bytes before they are allocated. Raises Overloaded, InputTooLarge."""

    def require_time(self) -> None:
        """Raises DeadlineExceeded or Unavailable when nobody waits for the answer any more."""


UNBOUNDED = Room()
