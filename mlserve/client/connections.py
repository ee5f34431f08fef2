"""The connections of one client: one transport for each process and event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from weakref import WeakSet

from mlserve.client.adapter import Call, Reply, Transport
from mlserve.client.endpoint import Connection, Endpoint
from mlserve.client.forks import has_inherited_grpc
from mlserve.client.retries import CallState
from mlserve.errors import UsageError

_Place = tuple[int, asyncio.AbstractEventLoop]


class Connections:
    """A transport that opens another one for each process and event loop, until it is closed.

    Neither a forked process nor a second event loop may use the sockets of the first.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._transports: dict[_Place, Transport] = {}
        self._guards: dict[_Place, AsyncGenerator[None]] = {}
        self._is_closed = False
        _everyone.add(self)

    @property
    def endpoint(self) -> Endpoint:
        return self._connection.endpoint

    async def send(self, call: Call, state: CallState) -> Reply:
        """Send `call` on the transport of this process and loop."""
        transport = await self._here()
        return await transport.send(call, state)

    def require_open(self) -> None:
        """Raise UsageError once the client has been closed."""
        if self._is_closed:
            raise UsageError(
                "this client is closed",
                hint="make a new one; `with` closes the client at the end of its block",
            )

    async def close(self) -> None:
        """Close what this process has opened; no call can be made after that."""
        self._is_closed = True
        here = asyncio.get_running_loop()
        for place in list(self._transports):
            pid, loop = place
            if pid != os.getpid():
                continue  # the parent's: it may be in the middle of a call
            transport, guard = self._transports.pop(place), self._guards.pop(place)
            if loop is here:
                await guard.aclose()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(transport.close(), loop)

    async def _here(self) -> Transport:
        self.require_open()
        place = os.getpid(), asyncio.get_running_loop()
        if place not in self._transports:
            self._forget_ended_loops()
            self._transports[place] = open_transport(self._connection)
            self._guards[place] = _closing_with_the_loop(self._transports[place])
            await anext(self._guards[place])
        return self._transports[place]

    def keep_for_ever(self) -> None:
        """Keep inherited transports from ever being freed, even at the end of the process.

        Freeing a channel of grpc.aio waits for a thread that only the parent has.
        """
        import ctypes  # only a forked process needs it

        for inherited in (*self._transports.values(), *self._guards.values()):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))

    def _forget_ended_loops(self) -> None:
        """Drop transports of ended loops: they can be neither used nor closed."""
        for pid, loop in list(self._transports):
            if pid == os.getpid() and loop.is_closed():
                self._transports.pop((pid, loop), None)
                self._guards.pop((pid, loop), None)


async def _closing_with_the_loop(transport: Transport) -> AsyncGenerator[None]:
    """Close the transport when the generator is closed, as `asyncio.run` does at the loop's end."""
    try:
        yield
    finally:
        await transport.close()


_everyone: WeakSet[Connections] = WeakSet()


def _after_fork() -> None:
    for connections in list(_everyone):
        connections.keep_for_ever()


os.register_at_fork(after_in_child=_after_fork)


def open_transport(connection: Connection) -> Transport:
    """Return the transport of an endpoint's protocol. Sends nothing yet."""
    if connection.endpoint.protocol == "grpc" and has_inherited_grpc():
        from mlserve.client.http2 import Http2Transport

        return Http2Transport(connection)
    if connection.endpoint.protocol == "grpc":
        from mlserve.client.grpc import GrpcTransport

        return GrpcTransport(connection)
    from mlserve.client.http import RestTransport

    return RestTransport(connection)
