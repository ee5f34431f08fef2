"""gRPC's health service: whether the models are served, asked once or watched.

A Watch has no end of its own, so a stop has to end it; a watcher who does not read holds up nobody.
"""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2

from mlserve.errors import shortened
from mlserve.server.codec.proto_reader import parse
from mlserve.server.listen.grpc.call import GrpcCall, PlainMethod
from mlserve.server.listen.grpc.headers import GrpcStatus
from mlserve.server.listen.grpc.service import FEW_BYTES

SERVICE = "grpc.health.v1.Health"
HEALTH_SERVICES = (
    "",
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "inference.GRPCInferenceService",
    "PredictionService",
    "ModelService",
)
"""The names that the health service knows; the short ones are TensorFlow Serving's."""

_Request = health_pb2.HealthCheckRequest
_Response = health_pb2.HealthCheckResponse


class Health:
    """Says of each service of the port that it serves, or that it does not."""

    def __init__(self) -> None:
        self._is_ready = False
        self._has_changed = asyncio.Event()
        self._is_ending = False

    def methods(self) -> dict[str, PlainMethod]:
        """The methods by their full names."""
        served = {"Check": self._check, "Watch": self._watch}
        return {
            f"/{SERVICE}/{name}": PlainMethod(serve, FEW_BYTES) for name, serve in served.items()
        }

    def show_ready(self, is_ready: bool) -> None:
        """Makes it say whether the models would be served."""
        self._is_ready = is_ready
        self._tell()

    def end(self) -> None:
        """Ends every Watch with UNAVAILABLE, once it has been told the latest state."""
        self._is_ending = True
        self._tell()

    async def _check(self, call: GrpcCall) -> None:
        """The state of a service now; NOT_FOUND for a name that is unknown."""
        service = parse(_Request, await call.only_message()).service
        if service not in HEALTH_SERVICES:
            raise GrpcStatus("NOT_FOUND", f"no service {shortened(service)}")
        call.answer(self._state_of(service).SerializeToString())

    async def _watch(self, call: GrpcCall) -> None:
        """The state of a service now, and again whenever it changes."""
        service = parse(_Request, await call.only_message()).service
        told = None
        while True:
            has_changed, is_last = self._has_changed, self._is_ending
            state = self._state_of(service)
            if state != told:
                await call.write(state.SerializeToString())
                told = state
            if is_last:
                raise GrpcStatus("UNAVAILABLE", "the server is shutting down")
            await has_changed.wait()

    def _state_of(self, service: str) -> _Response:
        if service not in HEALTH_SERVICES:
            return _Response(status=_Response.SERVICE_UNKNOWN)
        return _Response(status=_Response.SERVING if self._is_ready else _Response.NOT_SERVING)

    def _tell(self) -> None:
        self._has_changed.set()
        self._has_changed = asyncio.Event()
