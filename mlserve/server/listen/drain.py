"""The requests in flight, and which of them a server that stops still answers.

A request is in flight from the moment its head has been read until its answer was handed to the
port. When the drain begins, those in flight are kept: they are answered as if nothing had happened,
also when their body is still on its way. A request that comes later is refused with Unavailable, by
`Engine.admit`, which the ports ask in the moment that a request is taken.

The kernel takes connections in before the event loop hears of them, and a request can arrive on an
idle connection while it is being closed. So: no new connection is begun (Linux drops its first
packet, where the process may tell it to; the client tries again a second later, and is refused
then), those that have begun are taken
in, also when the last packet of their handshake is still on its way, and an idle connection is
closed only after a while in which nothing has come in on it, and while nothing is there. HTTP/1.1
has no word for "send no more": the client that has been still for that long, and sends in the very
moment of the close, is what is left of the race.
"""

from __future__ import annotations

import asyncio
import ctypes
import select
import socket
import struct
import sys
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlserve.server.request import RequestRecord

_SO_ATTACH_FILTER = 26
_FLAGS_AT, _SYN = 13, 0x02
_DROP_SYN = (
    (0x30, 0, 0, _FLAGS_AT),  # load the byte of the TCP header that holds the flags
    (0x45, 0, 1, _SYN),  # does it begin a connection?
    (0x06, 0, 0, 0),  # then drop the packet
    (0x06, 0, 0, 0xFFFFFFFF),  # else take it whole
)
"""A classic BPF program: (code, jump if true, jump if false, operand) each."""
_PAUSE = 0.005
_HANDSHAKE = 0.1
"""Seconds for a client that knows of its connection, before the kernel does, to make it known."""
_QUIET = 1.0
"""Seconds for a client that was just connected or answered to send its request. A busy machine may
hold it up for tenths of a second."""


async def take_last(listener: socket.socket, give_up: float) -> None:
    """Lets no new connection begin, and returns when the loop has all that the kernel took in.

    `give_up` is a time of the event loop's clock.
    """
    _begin_none(listener)
    await asyncio.sleep(_HANDSHAKE)
    while is_readable(listener.fileno()) and _time() < give_up:  # noqa: ASYNC110 - no event says so
        await asyncio.sleep(_PAUSE)


async def close_idle(connections: Callable[[], Collection[Any]], give_up: float) -> None:
    """Closes the port's connections, each once it has been idle; returns when none is left.

    One that still is at work when the time is over is left as it is.
    """
    await asyncio.sleep(_PAUSE)  # the one that was taken in last is made known
    while connections() and _time() < give_up:
        for connection in list(connections()):
            if _time() - connection.active_at >= _QUIET and not _is_at_work(connection):
                connection.shutdown()
        await asyncio.sleep(_PAUSE)


def _is_at_work(connection: Any) -> bool:
    if connection.transport.is_closing():
        return True  # its last words are on their way
    if connection.cycle is not None and not connection.cycle.response_complete:
        return True
    return is_readable(connection.transport.get_extra_info("socket").fileno())


def _begin_none(listener: socket.socket) -> None:
    """As far as the system lets us; elsewhere a connection of the last microseconds is reset."""
    if sys.platform != "linux":
        return
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in _DROP_SYN))
    program = struct.pack("HL", len(_DROP_SYN), ctypes.addressof(code))
    with suppress(PermissionError):  # some kernels let only root filter packets
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def is_readable(descriptor: int) -> bool:
    """Whether something has come in at that socket that nobody has read; False once closed."""
    if descriptor < 0:
        return False
    poll = select.poll()  # select.select() knows no descriptor above 1023
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _time() -> float:
    return asyncio.get_running_loop().time()


_LINGER = 1.0
"""Seconds in which what still comes in is dropped: closed at once, the client may see a reset in
place of the response (RFC 9112, section 9.6)."""


async def respond_and_close(response: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends the response, which says `Connection: close`, lets the client read it, and closes."""

    async def send_all_but_the_end(message: Message) -> None:
        is_body = message["type"] == "http.response.body"
        await send({**message, "more_body": True} if is_body else message)

    await response(scope, receive, send_all_but_the_end)
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER):
            await _drop_body(receive)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drop_body(receive: Receive) -> None:
    message = await receive()
    while message["type"] == "http.request" and message.get("more_body", False):
        message = await receive()


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
