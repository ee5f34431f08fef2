"""A response that leaves in one packet: its head waits for the first part of its body.

uvicorn writes the two one after the other, and each write costs more than all else that a server
does to refuse a request.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle  # noqa: TID253

_MOST_JOINED = 64 * 2**10
"""Bytes of a body above which joining them costs more than a write of their own."""


class JoinedWrites:
    """The transport of one cycle; what uvicorn's cycles use of a transport, and no more."""

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        self._cycle = cycle
        self._head = b""
        self._is_head_written = False

    def write(self, data: bytes) -> None:
        """Writes it, the response's head with what follows it."""
        if self._cycle.response_started and not self._is_head_written:
            self._is_head_written = True
            self._head = data
        elif self._head and len(data) <= _MOST_JOINED:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self.flush()
            self._transport.write(data)

    def flush(self) -> None:
        """Writes a head that nothing follows."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        """Closes the transport, once all is written."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the transport is closed or about to be."""
        return self._transport.is_closing()
