"""The HTTP/1.1 connections of a port together: their limits, and which of them wait."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from mlserve.server.listen.hangups import Hangups
from mlserve.server.message import Request

if TYPE_CHECKING:
    from mlserve.server.listen.http_connection import HttpConnection

_MOST_LINGERING = 100
"""Refused clients that linger at the same time; at most a quarter of the connections."""

Begin = Callable[[Request], Coroutine[Any, Any, None] | None]
"""Begins to answer a request, and returns what goes on with it; None if it has been answered."""


class HttpConnections:
    """State shared by the connections of a port: limits, and the waiting ones, longest first.

    `most` is the number of connections, `head_timeout` the seconds for a request's head. `begin` is
    called for each request, in a context of its own, as soon as its head is there and it is its
    turn.
    """

    def __init__(self, most: int, head_timeout: float, begin: Begin) -> None:
        self.most = most
        self.head_timeout = head_timeout
        self.begin = begin
        self.open: set[HttpConnection] = set()
        self.waiting: dict[HttpConnection, None] = {}
        self.tasks: set[asyncio.Task[None]] = set()
        self.hangups = Hangups()
        self.is_ending = False
        """Whether each connection ends with its next answer."""
        self.lingering = 0
        self.most_lingering = min(_MOST_LINGERING, max(1, most // 4))

    def close_longest_waiting(self) -> bool:
        """Close the longest-waiting connection without unread data; return whether one.

        One that still sends its answer comes last. It ends at once, as its client may never read.
        """
        for is_sending in (False, True):
            for connection in self.waiting:
                if connection.is_sending == is_sending and not connection.has_unread():
                    connection.give_way()
                    return True
        return False

    async def end(self, seconds: float) -> None:
        """Close the idle connections, and the others after their answers or after that time."""
        for connection in list(self.open):
            connection.shutdown()
        if self.tasks:
            _, late = await asyncio.wait(self.tasks, timeout=seconds)
            for task in late:
                task.cancel()
        await asyncio.sleep(0)  # lets transports that were closed end
        self.hangups.close()
