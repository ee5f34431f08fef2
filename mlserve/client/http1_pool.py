"""The HTTP/1.1 connections of one process and event loop to one endpoint."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import OrderedDict
from collections.abc import Callable

from mlserve.client.http1 import ClosedByUs, Http1Connection
from mlserve.client.http1_opening import Opening
from mlserve.deadline import Deadline

MOST_CONNECTIONS = 256
"""Connections of a client to its server, each with one call at a time."""
_MOST_IDLE = 5.0
"""Seconds after which an idle connection is not used again: servers close theirs after about that.
"""

_Place = Http1Connection | None
"""What a waiting call is given: a connection, or the right to open one."""


class Pool:
    """At most MOST_CONNECTIONS connections. The one used last is used next, so that few are open.

    Calls that wait for one get it in the order of their deadlines. No step looks at all of them.
    """

    def __init__(self, opening: Opening) -> None:
        self._opening = opening
        self._open: set[Http1Connection] = set()
        self._being_opened = 0
        self._idle: OrderedDict[Http1Connection, None] = OrderedDict()
        self._waiting: list[tuple[float, int, asyncio.Future[_Place]]] = []
        self._number = itertools.count()
        self._is_closed = False
        self._emptied: asyncio.Future[None] | None = None

    async def take(self, deadline: Deadline, when_waiting: Callable[[], None]) -> Http1Connection:
        """Return a connection that no other call has; `give_back` must follow, or its `drop`.

        Raises what `Opening.open` does, and ClosedByUs.
        """
        if self._is_closed:
            raise ClosedByUs("this client is closed")
        connection = self._usable()
        while connection is None and self._is_full():
            when_waiting()
            connection = await self._wait(deadline)
            if connection is None:
                return await self._opened(deadline)
            if not connection.is_usable():
                connection.drop()  # closed since it was given, or the server has spoken unasked
                connection = None
        if connection is not None:
            return connection
        self._being_opened += 1
        return await self._opened(deadline)

    def give_back(self, connection: Http1Connection) -> None:
        """Take note that the call on it has ended; it may have been closed."""
        if not connection.is_open:
            return  # its place is free once it is closed
        waiting = self._next_waiting()
        if waiting is not None:
            waiting.set_result(connection)
            return
        connection.idle_since = time.monotonic()
        self._idle[connection] = None
        self._drop_stale(connection.idle_since - _MOST_IDLE)

    async def close(self) -> None:
        """Close all connections, and return once the system has closed them."""
        self._is_closed = True
        while self._waiting:
            waiting = heapq.heappop(self._waiting)[2]
            if not waiting.done():
                waiting.set_exception(ClosedByUs("this client was closed"))
        for connection in list(self._open):
            connection.drop()
        if self._open:
            self._emptied = self._emptied or asyncio.get_running_loop().create_future()
            await self._emptied

    def _is_full(self) -> bool:
        return len(self._open) + self._being_opened >= MOST_CONNECTIONS

    def _usable(self) -> Http1Connection | None:
        """Return the idle connection that was used last, if there is one that is still good."""
        oldest = time.monotonic() - _MOST_IDLE
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.idle_since >= oldest and connection.is_usable():
                return connection
            connection.drop()
        return None

    def _drop_stale(self, oldest: float) -> None:
        while (connection := next(iter(self._idle))).idle_since < oldest:
            del self._idle[connection]
            connection.drop()

    async def _wait(self, deadline: Deadline) -> _Place:
        waiting: asyncio.Future[_Place] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (deadline.expires_at, next(self._number), waiting))
        try:
            return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                self._return(waiting.result())
            raise

    def _return(self, place: _Place) -> None:
        """Give back what was given to a call that has just been cancelled."""
        if place is not None:
            self.give_back(place)
        else:
            self._being_opened -= 1
            self._free()

    def _next_waiting(self) -> asyncio.Future[_Place] | None:
        while self._waiting:
            waiting = heapq.heappop(self._waiting)[2]
            if not waiting.done():
                return waiting
        return None

    def _free(self) -> None:
        """Let the next call that waits open a connection."""
        waiting = self._next_waiting()
        if waiting is not None:
            self._being_opened += 1
            waiting.set_result(None)

    async def _opened(self, deadline: Deadline) -> Http1Connection:
        """Open a connection in the place that the caller has."""
        connection = None
        try:
            connection = await self._opening.open(deadline)
        finally:
            self._being_opened -= 1
            if connection is None or connection.is_closed:
                self._free()
        if connection.is_closed:
            return connection  # the call on it will tell how it ended
        connection.when_lost = self._lost
        self._open.add(connection)
        if self._is_closed:
            connection.drop()
            raise ClosedByUs("this client was closed")
        return connection

    def _lost(self, connection: Http1Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)
        if self._emptied is not None and not self._open and not self._emptied.done():
            self._emptied.set_result(None)
        self._free()
