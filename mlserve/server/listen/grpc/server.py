"""The gRPC server behind the port's connections: their places, their limits, and the methods.

As on the HTTP port, the connection that has been idle longest gives way to a new one. Where all are
at work, there are a few more places for health checks, which must get in when the server is busiest
of all; any other call is told there why it cannot be served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

from mlserve.server.body_memory import BodyMemory
from mlserve.server.listen.grpc.call import Context, GrpcCall
from mlserve.server.listen.grpc.connection import GrpcConnection
from mlserve.server.listen.grpc.messages import check_encoding
from mlserve.server.listen.grpc.status import GrpcStatus
from mlserve.server.request import Route
from mlserve.settings import ServerSettings, flag_of

_RESERVE = 16
"""Places for health checks beyond the others; an eighth of those, if fewer."""
_MOST_LINGERING = 100
_SILENCE, _PATIENCE = 60.0, 20.0
"""Seconds of silence after which a client is asked for a sign of life, and until it must come."""
_ROUND = 5.0
_PAUSE = 0.005
_USUAL_CALL = 8 * 2**10
"""Bytes of a call of a small message that needs no room: health is told also when there is none."""


class Method(Protocol):
    """A method of a service."""

    @property
    def route(self) -> Route | None:
        """What its calls are counted as; None where nobody counts them."""

    @property
    def most_bytes(self) -> int | None:
        """Bytes of a message that is so small that it is not counted; None for any other."""

    @property
    def needs_token(self) -> bool:
        """Whether a call needs the server's token, where there is one."""

    def begin(self, call: GrpcCall) -> None:
        """Begins to serve a call that is let in. Raises GrpcStatus before its data is taken."""


class GrpcServer:
    """The methods of one port, and its connections: it is their `Port`."""

    def __init__(
        self,
        settings: ServerSettings,
        memory: BodyMemory,
        check: Callable[[Context, Route | None], None] | None,
    ) -> None:
        self.memory = memory
        self.head_timeout = settings.header_timeout
        self.full = (
            f"this server has its {settings.max_connections} connections "
            f"({flag_of('max_connections')})"
        )
        self._methods: Mapping[str, Method] = {}
        self._check = check
        self._most_bytes = settings.max_request_bytes
        self._limit_name = f"; {flag_of('max_request_bytes')} of this server sets that"
        self._most = settings.max_connections
        self._reserve = min(_RESERVE, max(1, self._most // 8))
        self._places: set[GrpcConnection] = set()
        self._extra: dict[GrpcConnection, None] = {}
        self._waiting: dict[GrpcConnection, None] = {}
        """Those that are not at work, the longest first."""
        self._lingering: set[GrpcConnection] = set()
        """Those that have said their last word, and may not have been heard."""
        self._is_draining = False

    def start(self, methods: Mapping[str, Method]) -> None:
        """Serves these methods, by their full names."""
        self._methods = methods
        self._look_after_all()

    def begin(self, connection: GrpcConnection, call: GrpcCall) -> None:
        """Lets a call in by its headers alone. Raises GrpcStatus and MlserveError."""
        path = call.context.path
        method = self._methods.get(path)
        if self._check is not None and (method is None or method.needs_token):
            self._check(call.context, None if method is None else method.route)
        is_small = method is not None and method.most_bytes is not None
        if connection.is_extra and not is_small and not self._has_room_for(connection):
            raise GrpcStatus("UNAVAILABLE", f"{self.full}, all at work")
        if method is None:
            raise GrpcStatus("UNIMPLEMENTED", f"this server has no method {path[:200]}")
        check_encoding(call.encoding)
        if method.most_bytes is None:
            call.take_messages(self._most_bytes, self._limit_name, self.memory)
        else:
            is_usual = call.size <= _USUAL_CALL
            call.take_messages(method.most_bytes, "", None if is_usual else self.memory)
        method.begin(call)

    def add(self, connection: GrpcConnection) -> None:
        """Finds a place for it, if need be that of an idle one."""
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
        """Hears that it has done something, or that it begins or ends to be at work."""
        self._waiting.pop(connection, None)
        has_place = connection in self._places or connection in self._extra
        if has_place and not connection.is_at_work:
            self._waiting[connection] = None

    def may_linger(self, connection: GrpcConnection) -> bool:
        """Whether one that is to end may wait for its client to hang up."""
        self._lingering.add(connection)
        return len(self._lingering) <= min(_MOST_LINGERING, max(1, self._most // 4))

    def remove(self, connection: GrpcConnection, *, is_lost: bool = False) -> None:
        """Gives its place to another."""
        if is_lost:
            self._lingering.discard(connection)
        self._places.discard(connection)
        self._extra.pop(connection, None)
        self._waiting.pop(connection, None)
        while self._extra and len(self._places) < self._most:
            self._promote(next(iter(self._extra)))

    async def stop(self, give_up: float) -> None:
        """Lets all calls end and closes each connection after its last; at that time, at once.

        `give_up` is a time of the event loop's clock.
        """
        self._is_draining = True
        loop = asyncio.get_running_loop()
        for connection in self._all():
            connection.drain()
        while (self._all() or self._lingering) and loop.time() < give_up:  # noqa: ASYNC110
            await asyncio.sleep(_PAUSE)
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
        """Whether there is a place, if need be once an idle connection has given way."""
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
