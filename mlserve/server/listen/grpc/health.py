"""gRPC's health service: report whether the models are served, once (Check) or on change (Watch).

A Watch never ends by itself, so stopping the server ends it; a watcher that does not read delays no
one else.
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
from mlserve.wire.services import HEALTH, method_path

WHOLE_SERVER = ""
"""The service name that stands for the whole server."""
_Request = health_pb2.HealthCheckRequest
_Response = health_pb2.HealthCheckResponse


class Health:
    """Reports for each service of the port whether it is serving.

    It needs no token, so that probes work without secrets.
    """

    def __init__(self) -> None:
        self._services = {WHOLE_SERVER}
        self._is_ready = False
        self._has_changed = asyncio.Event()
        self._is_ending = False

    def methods(self, services: Iterable[str]) -> dict[str, PlainMethod]:
        """Return the methods by full name, for a port with these services."""
        self._services.update(services)
        methods = {"Check": self._check, "Watch": self._watch}
        return {
            method_path(HEALTH, name): PlainMethod(serve, FEW_BYTES, needs_token=False)
            for name, serve in methods.items()
        }

    def show_ready(self, is_ready: bool) -> None:
        """Set whether the models are reported as served."""
        self._is_ready = is_ready
        self._wake_watchers()

    def end(self) -> None:
        """End every Watch with UNAVAILABLE, once it has sent the latest state."""
        self._is_ending = True
        self._wake_watchers()

    async def _check(self, call: GrpcCall) -> None:
        """Answer with the current state of a service; NOT_FOUND for an unknown name."""
        service = parse(_Request, await call.only_message()).service
        if service not in self._services:
            raise GrpcStatus("NOT_FOUND", f"unknown service {shortened(service)}")
        call.answer(self._state_of(service).SerializeToString())

    async def _watch(self, call: GrpcCall) -> None:
        """Send the current state of a service, and again whenever it changes."""
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
