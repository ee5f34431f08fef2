"""The last decisions on who was let in, on both ports: for `mlserve why` and `mlserve audit`.

It belongs to no protocol, and needs the token like everything that tells about a server. All
decisions together are half a second's work. It is done on a thread, in pieces with rests between
them: the requests of a busy server must not wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from mlserve.admission.decisions import Copy
from mlserve.server.codec.proto_reader import read_message
from mlserve.server.engine.engine import Engine
from mlserve.server.listen.grpc.call import Context
from mlserve.server.listen.grpc.service import BytesMethod, Methods, Service, deadline_of
from mlserve.server.listen.http import check_method, json_response
from mlserve.server.listen.routes import Operation
from mlserve.server.message import Request, Response
from mlserve.server.request import Purpose
from mlserve.wire import paths
from mlserve.wire.proto.mlserve_pb2 import DecisionsRequest, DecisionsResponse
from mlserve.wire.services import SERVER

_REST = 0.005
"""Seconds of rest after each piece, which takes about half as long."""
_AT_ONCE = 2
"""Copies that a port has at once: each takes megabytes, and more would not be ready sooner."""


class DecisionsPage:
    """The page of the REST port: `GET /mlserve/decisions`, of one call with `?request_id=`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def match(self, path: str) -> Operation | None:
        if path != paths.DECISIONS:
            return None
        return Operation("", Purpose.METADATA, self._respond)

    async def _respond(self, request: Request) -> Response:
        check_method(request, "GET")
        request_id = request.parameter("request_id")
        return json_response(await _written(self._engine, request_id, self._turns))


class DecisionsService:
    """The same on the gRPC port, as a method of mlserve's own service."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turns = asyncio.Semaphore(_AT_ONCE)

    def services(self, more: Mapping[str, BytesMethod]) -> tuple[Service]:
        """Return mlserve's own service to add to the gRPC server, with more methods of it."""
        methods: dict[str, BytesMethod] = {"Decisions": self.decisions, **more}
        purposes: Methods = {Purpose.METADATA: methods}
        return (Service(SERVER, "", purposes),)

    async def decisions(self, data: bytes, context: Context) -> bytes:
        """Decisions: on the calls with that id, or on all that are remembered."""
        deadline = deadline_of(context, self._engine.default_timeout)
        request = await read_message(DecisionsRequest, data, deadline)
        json = await _written(self._engine, request.request_id, self._turns)
        return DecisionsResponse(json=json).SerializeToString()


async def _written(engine: Engine, request_id: str, turns: asyncio.Semaphore) -> bytes:
    """Return the JSON of the decisions on calls with that id, or on all for an empty one."""
    async with turns:
        return await asyncio.to_thread(_write, engine.decisions(), request_id)


def _write(copy: Copy, request_id: str) -> bytes:
    pieces = []
    for piece in copy.pieces(request_id):
        pieces.append(piece)
        time.sleep(_REST)
    return "".join(pieces).encode()
