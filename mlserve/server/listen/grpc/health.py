"""gRPC's health service: whether the models are served, asked once or watched.

A Watch has no end of its own, so a stop has to end it; a watcher who does not read holds up nobody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from grpc_health.v1 import health_pb2

from mlserve.errors import shortened
from mlserve.server.codec.proto_reader import parse
from mlserve.server.listen.grpc.call import GrpcCall, PlainMethod
from mlserve.server.listen.grpc.service import FEW_BYTES
from mlserve.server.listen.grpc.status import GrpcStatus

SERVICE = "grpc.health.v1.Health"
WHOLE_SERVER = ""
"""The name that asks for all services of a server."""
_Request = health_pb2.HealthCheckRequest
_Response = health_pb2.HealthCheckResponse


class Health:
    """Says of each service of the port that it serves, or that it does not.

    It needs no token, for probes without secrets.
    """

    def __init__(self) -> None:
        self._services = {WHOLE_SERVER}
        self._is_ready = False
        self._has_changed = asyncio.Event()
        self._is_ending = False

    def methods(self, services: Iterable[str]) -> dict[str, PlainMethod]:
        """The methods by their full names, for a port with services of these names."""
        self._services.update(services)
        methods = {"Check": self._check, "Watch": self._watch}
        return {
            f"/{SERVICE}/{name}": PlainMethod(serve, FEW_BYTES, needs_token=False)
            for name, serve in methods.items()
        }

    def show_ready(self, is_ready: bool) -> None:
        """Makes it say whether the models would be served."""
        self._is_ready = is_ready
        self._wake_watchers()

    def end(self) -> None:
        """Ends every Watch with UNAVAILABLE, once it has sent the latest state."""
        self._is_ending = True
        self._wake_watchers()

    async def _check(self, call: GrpcCall) -> None:
        """The state of a service now; NOT_FOUND for a name that is unknown."""
        service = parse(_Request, await call.only_message()).service
        if service not in self._services:
            raise GrpcStatus("NOT_FOUND", f"no service {shortened(service)}")
        call.answer(self._state_of(service).SerializeToString())

    async def _watch(self, call: GrpcCall) -> None:
        """The state of a service now, and again whenever it changes."""
        service = parse(_Request, await call.only_message()).service
        sent = None
        while True:
            has_changed, is_last = self._has_changed, self._is_ending
            state = self._state_of(service)
            if state != sent:
                await call.write(state.SerializeToString())
                sent = state
            if is_last:
                raise GrpcStatus("UNAVAILABLE", "the server is shutting down")
            await has_changed.wait()

    def _state_of(self, service: str) -> _Response:
        if service not in self._services:
            return _Response(status=_Response.SERVICE_UNKNOWN)
        return _Response(status=_Response.SERVING if self._is_ready else _Response.NOT_SERVING)

    def _wake_watchers(self) -> None:
        self._has_changed.set()
        self._has_changed = asyncio.Event()
