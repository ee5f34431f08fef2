"""The gRPC server behind a port's connections: their number, their limits, and the methods.

As on the HTTP port, the connection that has been idle longest gives way to a new one. When all are
at work, a few extra places remain for health checks, which must get through to the busiest server;
any other call on an extra connection is refused with the reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from mlserve.options import flag_of
from mlserve.server.body_memory import BodyMemory
from mlserve.server.listen.grpc.call import Accept, Context, GrpcCall
from mlserve.server.listen.grpc.connection import GrpcConnection
from mlserve.server.listen.grpc.messages import check_encoding
from mlserve.server.listen.grpc.status import GrpcStatus
from mlserve.server.request import Route
from mlserve.settings import ServerSettings

_RESERVE = 16
"""Extra places for health checks; at most an eighth of the regular ones."""
_MOST_LINGERING = 100
_SILENCE, _PATIENCE = 60.0, 20.0
"""Seconds of silence after which a client is sent a PING, and seconds for it to respond."""
_ROUND = 5.0
_GREETING = 2.0
"""Seconds for the SETTINGS of clients that have just connected to a server that is handed over."""
_PAUSE = 0.005
_USUAL_CALL = 8 * 2**10
"""Bytes of a small call that is served uncounted, so that health works when memory is full."""


class Method(Protocol):
    """A method of a service."""

    @property
    def route(self) -> Route | None:
        """The route under which its calls are counted; None if they are not."""

    @property
    def most_bytes(self) -> int | None:
        """Largest message of a method with small, uncounted messages; None for other methods."""

    @property
    def needs_token(self) -> bool:
        """Whether a call needs the server's token, if there is one."""

    def begin(self, call: GrpcCall, accept: Accept) -> None:
        """Begin to serve a call, once `accept` has had it take its messages.

        Raises GrpcStatus and MlserveError for one that is refused before.
        """


class GrpcServer:
    """The methods of one port and its connections, whose `Port` it is."""

    def __init__(
        self,
        settings: ServerSettings,
        memory: BodyMemory,
        check: Callable[[Context, Route | None], None] | None,
    ) -> None:
        self.memory = memory
        self.head_timeout = settings.header_timeout
        self.full = (
            f"this server has reached its limit of {settings.max_connections} connections "
            f"({flag_of('max_connections')})"
        )
        self._methods: Mapping[str, Method] = {}
        self._check = check
        self._most_bytes = settings.max_request_bytes
        self._limit_name = f"; {flag_of('max_request_bytes')} of this server sets the limit"
        self._most = settings.max_connections
        self._reserve = min(_RESERVE, max(1, self._most // 8))
        self._places: set[GrpcConnection] = set()
        self._extra: dict[GrpcConnection, None] = {}
        self._waiting: dict[GrpcConnection, None] = {}
        """Connections not at work, the longest-idle first."""
        self._lingering: set[GrpcConnection] = set()
        """Closing connections whose last answers may not have been read."""
        self._is_draining = False

    def start(self, methods: Mapping[str, Method]) -> None:
        """Start serving these methods, by full name."""
        self._methods = methods
        self._look_after_all()

    def begin(self, connection: GrpcConnection, call: GrpcCall) -> None:
        """Admit a call by its headers alone. Raises GrpcStatus and MlserveError."""
        path = call.context.path
        method = self._methods.get(path)
        if self._check is not None and (method is None or method.needs_token):
            self._check(call.context, None if method is None else method.route)
        is_small = method is not None and method.most_bytes is not None
        if connection.is_extra and not is_small and not self._has_room_for(connection):
            raise GrpcStatus("UNAVAILABLE", f"{self.full}, and all are in use")
        if method is None:
            raise GrpcStatus("UNIMPLEMENTED", f"this server has no method {path[:200]}")
        check_encoding(call.encoding)
        method.begin(call, self._accept if method.most_bytes is None else self._accept_small)

    def _accept(self, call: GrpcCall) -> None:
        call.take_messages(self._most_bytes, self._limit_name, self.memory)

    def _accept_small(self, call: GrpcCall) -> None:
        """Accept a message of few bytes, uncounted unless the call's headers are many."""
        most = self._methods[call.context.path].most_bytes or 0
        call.take_messages(most, "", None if call.size <= _USUAL_CALL else self.memory)

    def add(self, connection: GrpcConnection) -> None:
        """Find a place for the connection, closing an idle one if necessary."""
        if self._has_room():
            self._places.add(connection)
        else:
            if len(self._extra) >= self._reserve:
                next(iter(self._extra)).give_way()
            connection.is_extra = True
            self._extra[connection] = None
        self._waiting[connection] = None
        if self._is_draining:
            connection.drain()

    def note(self, connection: GrpcConnection) -> None:
        """Note that the connection was used, or that it started or stopped being at work."""
        self._waiting.pop(connection, None)
        has_place = connection in self._places or connection in self._extra
        if has_place and not connection.is_at_work:
            self._waiting[connection] = None

    def may_linger(self, connection: GrpcConnection) -> bool:
        """Return whether a closing connection may wait for its client to hang up."""
        self._lingering.add(connection)
        return len(self._lingering) <= min(_MOST_LINGERING, max(1, self._most // 4))

    def remove(self, connection: GrpcConnection, *, is_lost: bool = False) -> None:
        """Free the connection's place."""
        if is_lost:
            self._lingering.discard(connection)
        self._places.discard(connection)
        self._extra.pop(connection, None)
        self._waiting.pop(connection, None)
        while self._extra and len(self._places) < self._most:
            self._promote(next(iter(self._extra)))

    async def hand_over(self, give_up: float) -> None:
        """Let all calls end, and have clients begin others over connections to another process.

        One that has just connected may be about to send a call, so it gets a moment to do so.
        Returns once no connection is left, or at `give_up` on the event loop's clock.
        """
        loop = asyncio.get_running_loop()
        until = min(give_up, loop.time() + _GREETING)
        while not all(each.has_greeted for each in self._all()) and loop.time() < until:  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)
        await self._drain(give_up)

    async def _drain(self, give_up: float) -> None:
        self._is_draining = True
        loop = asyncio.get_running_loop()
        for connection in self._all():
            connection.drain()
        while (self._all() or self._lingering) and loop.time() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)

    async def stop(self, give_up: float) -> None:
        """Let all calls end, and close each connection after its last one.

        Calls left at `give_up`, a time on the event loop's clock, are ended at once.
        """
        await self._drain(give_up)
        for connection in self._all():
            connection.cut_short("UNAVAILABLE", "the server is shutting down")
        await asyncio.sleep(0)
        for connection in list(self._lingering):
            connection.end()

    def _all(self) -> list[GrpcConnection]:
        return [*self._places, *self._extra]

    def _has_room_for(self, connection: GrpcConnection) -> bool:
        if self._has_room():
            self._promote(connection)
        return not connection.is_extra

    def _has_room(self) -> bool:
        """Return whether there is a place, closing an idle connection if necessary."""
        if len(self._places) >= self._most:
            self._close_longest_waiting()
        return len(self._places) < self._most

    def _promote(self, connection: GrpcConnection) -> None:
        if self._extra.pop(connection, 0) is None:
            connection.is_extra = False
            self._places.add(connection)

    def _close_longest_waiting(self) -> None:
        for connection in self._waiting:
            if not connection.is_extra and not connection.has_unread():
                connection.give_way()
                return

    def _look_after_all(self) -> None:
        for connection in self._all():
            connection.look_after(_SILENCE, _PATIENCE)
        if not self._is_draining:
            asyncio.get_running_loop().call_later(_ROUND, self._look_after_all)
