"""The connections of one client: a transport of its own for each process and each event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from weakref import WeakSet

from mlserve.client.adapter import Api, Call, ModelRef, OipAdapter, Reply, TfsAdapter, Transport
from mlserve.client.call import CallState
from mlserve.client.endpoint import Access, Endpoint
from mlserve.client.forks import has_inherited_grpc
from mlserve.client.session import Dialogue, Line, TfsDialogue
from mlserve.deadline import Deadline
from mlserve.errors import UsageError

_Place = tuple[int, asyncio.AbstractEventLoop]


class Connections:
    """A transport that opens another one wherever it is used, until it is closed.

    Neither a forked process nor a second event loop may use the sockets of the first.
    """

    def __init__(self, open_transport: Callable[[], Transport]) -> None:
        self._open_transport = open_transport
        self._transports: dict[_Place, Transport] = {}
        self._guards: dict[_Place, AsyncGenerator[None]] = {}
        self._is_closed = False
        _everyone.add(self)

    async def send(self, call: Call, deadline: Deadline, state: CallState) -> Reply:
        """The reply to `call`, on a connection of this process and loop."""
        transport = await self._here()
        return await transport.send(call, deadline, state)

    def require_open(self) -> None:
        """Raises UsageError once the client has been closed."""
        if self._is_closed:
            raise UsageError(
                "this client is closed",
                hint="make a new one; `with` closes the client at the end of its block",
            )

    async def close(self) -> None:
        """Closes what this process has opened; no call can be made after that."""
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
            self._transports[place] = self._open_transport()
            self._guards[place] = _closing_with_the_loop(self._transports[place])
            await anext(self._guards[place])
        return self._transports[place]

    def keep_for_ever(self) -> None:
        """Keeps what a fork has brought along from being freed, at the end of the process too.

        To free a channel of grpc.aio waits for a thread that only the parent has.
        """
        import ctypes  # only a forked process needs it

        for inherited in (*self._transports.values(), *self._guards.values()):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(inherited))

    def _forget_ended_loops(self) -> None:
        """Drops what can be neither used nor closed any more."""
        for pid, loop in list(self._transports):
            if pid == os.getpid() and loop.is_closed():
                self._transports.pop((pid, loop), None)
                self._guards.pop((pid, loop), None)


async def _closing_with_the_loop(transport: Transport) -> AsyncGenerator[None]:
    """Closes the transport when it is closed itself, as `asyncio.run` does at the loop's end."""
    try:
        yield
    finally:
        await transport.close()


_everyone: WeakSet[Connections] = WeakSet()


def _after_fork() -> None:
    for connections in list(_everyone):
        connections.keep_for_ever()


os.register_at_fork(after_in_child=_after_fork)


def open_transport(endpoint: Endpoint, access: Access, limit: int) -> Transport:
    """A connection to the endpoint; `limit` is the bytes of the largest answer.

    Sends nothing yet.
    """
    if endpoint.protocol == "grpc" and has_inherited_grpc():
        from mlserve.client.http2 import Http2Transport

        return Http2Transport(endpoint, access, limit)
    if endpoint.protocol == "grpc":
        from mlserve.client.grpc import GrpcTransport

        return GrpcTransport(endpoint, access, limit)
    from mlserve.client.http import RestTransport

    return RestTransport(endpoint, access, limit)


def open_dialogue(api: Api, endpoint: Endpoint, transport: Transport, model: ModelRef) -> Dialogue:
    """The API spoken over the transport. Sends nothing yet."""
    line = Line(endpoint, transport)
    if api == "tfs":
        return TfsDialogue(_tfs_adapter(endpoint), line, model)
    from mlserve.client.oip_session import OipDialogue

    return OipDialogue(_oip_adapter(endpoint), line, model)


def _tfs_adapter(endpoint: Endpoint) -> TfsAdapter:
    if endpoint.protocol == "grpc":
        from mlserve.client.tfs_grpc import TfsGrpc

        return TfsGrpc()
    from mlserve.client.tfs_rest import TfsRest

    return TfsRest()


def _oip_adapter(endpoint: Endpoint) -> OipAdapter:
    if endpoint.protocol == "grpc":
        from mlserve.client.oip_grpc import OipGrpc

        return OipGrpc()
    from mlserve.client.oip_rest import OipRest

    return OipRest()
