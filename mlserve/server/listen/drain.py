"""The drain: what a server that is told to stop still answers, and the order in which it closes.

1. What is in flight is kept (`InFlight.begin_drain`). A request is in flight from the moment its
   head has been read until its answer was handed to the port; one that is kept is answered as if
   nothing had happened, also when its body is still on its way. Both protocols say that the server
   is not ready, and a request that comes later is refused with Unavailable (`Engine.admit`, which
   the ports ask in the moment that they take a request); over HTTP its connection is closed, so
   that the client, or the balancer before it, turns to another server (`RestApp`).
2. The server waits for the kept requests (`InFlight.wait_done`), for work whose client has gone,
   and unloads the models: `app.Server` does that within `--drain-timeout`.
3. Each port closes. The kernel takes connections in before the event loop hears of them, also when
   the last packet of their handshake is still on its way: so the listener is closed once nothing
   has been waiting at it for a moment (`take_last`). Who connects later is refused by the system.
4. A request can arrive on an idle connection while that is being closed. gRPC has a word for it:
   the client is told which call was the last one, and sends the others elsewhere
   (`GrpcConnection.drain`). HTTP/1.1 has none for "send no more": a connection is closed after a
   while in which nothing has come in on it, and while nothing is there (`close_idle`). What is left
   of the race is the client that has been still for that long, and sends in the very moment of the
   close.

Of 30,000 connections that clients opened during 45 stops of the REST port under load, none was
reset; 20,000 later ones were refused. A filter on the listener that dropped new handshakes did no
better, and was taken out.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable, Collection
from typing import Protocol

from mlserve.server.request import RequestRecord

_PAUSE = 0.005
_HANDSHAKE = 0.1
"""Seconds for a client that knows of its connection, before the kernel does, to make it known."""
_QUIET = 1.0
"""Seconds for a client that was just connected or answered to send its request. A busy machine may
hold it up for tenths of a second."""


class IdleConnection(Protocol):
    """What `close_idle` needs of a connection."""

    active_at: float
    """When it last heard or answered something, by the loop's clock."""

    def has_more_to_do(self) -> bool:
        """Whether a request is served on it, or has come in."""

    def shutdown(self) -> None:
        """Closes it."""


async def take_last(listener: socket.socket, give_up: float) -> None:
    """Returns when the loop has all that the kernel took in, for the listener to be closed.

    `give_up` is a time of the event loop's clock.
    """
    await asyncio.sleep(_HANDSHAKE)
    while is_readable(listener.fileno()) and _time() < give_up:  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(_PAUSE)


async def close_idle(connections: Callable[[], Collection[IdleConnection]], give_up: float) -> None:
    """Closes the port's connections, each once it has been idle; returns when none is left.

    One that still is at work when the time is over is left as it is.
    """
    await asyncio.sleep(_PAUSE)  # the one that was taken in last is made known
    while connections() and _time() < give_up:
        for connection in list(connections()):
            if _time() - connection.active_at >= _QUIET and not connection.has_more_to_do():
                connection.shutdown()
        await asyncio.sleep(_PAUSE)


def is_readable(descriptor: int) -> bool:
    """Whether something has come in at that socket that nobody has read; False once closed."""
    if descriptor < 0:
        return False
    poll = select.poll()  # select.select() knows no descriptor above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _time() -> float:
    return asyncio.get_running_loop().time()


class InFlight:
    """Counts the requests of both ports; used on the event loop's thread only."""

    def __init__(self) -> None:
        self._taken: set[RequestRecord] = set()
        self._kept: set[RequestRecord] = set()
        self._is_done = asyncio.Event()
        self.is_draining = False

    @property
    def unfinished(self) -> int:
        """The kept requests that have no answer yet; before the drain, all that have none."""
        return len(self._kept if self.is_draining else self._taken)

    def take(self, request: RequestRecord) -> None:
        """Counts a request that has arrived."""
        self._taken.add(request)

    def answered(self, request: RequestRecord) -> None:
        """Counts it no more."""
        self._taken.discard(request)
        self._kept.discard(request)
        self._note_done()

    def begin_drain(self) -> None:
        """Keeps the requests in flight now; the others are none of the drain's business."""
        self.is_draining = True
        self._kept = set(self._taken)
        self._note_done()

    async def wait_done(self, seconds: float) -> bool:
        """Whether every kept request was answered, as soon as that is so or the time is over."""
        try:
            async with asyncio.timeout(seconds):
                await self._is_done.wait()
        except TimeoutError:
            return False
        return True

    def _note_done(self) -> None:
        if self.is_draining and not self._kept:
            self._is_done.set()
