"""What the kernel knows of the client at the other end of a connection.

The event loop comes to what has arrived when it can: late, while it is busy or after the process
stood still. The kernel has noted when the last bytes came, and whether the client has closed the
connection since (TCP_INFO, see tcp(7)). To ask takes a microsecond and keeps the interpreter's
lock, so any thread may do so between two steps of its work.
"""

from __future__ import annotations

import socket
import struct
from asyncio.trsock import TransportSocket

_TCP_INFO = getattr(socket, "TCP_INFO", None)
_PARTS = struct.Struct("=B51xI")
"""The state, and the milliseconds since the last data: `tcpi_state` and `tcpi_last_data_recv` of
Linux's `struct tcp_info`."""
_ENDED = {7, 8, 9, 11}
"""States of a TCP connection on which the other side sends no more: CLOSE, CLOSE_WAIT, LAST_ACK and
CLOSING, as Linux numbers them."""
PROMPT = 0.01
"""Seconds that count as none: the kernel's clock for this has steps of 1 to 10 ms."""


class Peer:
    """The client of a TCP connection; nothing is known of another's, or on another system."""

    __slots__ = ("_connection",)

    def __init__(self, connection: TransportSocket | None = None) -> None:
        self._connection = connection

    def has_hung_up(self) -> bool:
        """Return whether it has closed the connection, or half of it; False if that is unknown."""
        connection = self._connection
        if connection is None:
            return False
        if connection.fileno() < 0:
            return True
        state, _ = _told(connection)
        return state in _ENDED

    def waited(self) -> float:
        """Return the seconds since its last bytes arrived; 0 if that is unknown, or just now."""
        if self._connection is None or self._connection.fileno() < 0:
            return 0.0
        _, milliseconds = _told(self._connection)
        seconds = milliseconds / 1000
        return seconds if seconds > PROMPT else 0.0


UNKNOWN_PEER = Peer()


def _told(connection: TransportSocket) -> tuple[int, int]:
    if _TCP_INFO is None:
        return 0, 0
    try:
        told = connection.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _PARTS.size)
    except OSError:  # it is no TCP connection, or has just been closed
        return 0, 0
    state, milliseconds = _PARTS.unpack(told) if len(told) == _PARTS.size else (0, 0)
    return state, milliseconds
