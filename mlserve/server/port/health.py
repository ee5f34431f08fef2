"""gRPC's health service: whether the models are served, asked once or watched.

Ours and not that of grpcio-health-checking: a Watch has no end of its own, so a stop has to end it,
and a watcher who does not read must not hold up the news for the others.
"""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mlserve.errors import shortened

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
_Context = grpc.aio.ServicerContext[_Request, _Response]


class Health(health_pb2_grpc.HealthServicer):
    """Says of each service of the port that it serves, or that it does not."""

    def __init__(self) -> None:
        self._is_ready = False
        self._has_changed = asyncio.Event()
        self._is_ending = False

    def show_ready(self, is_ready: bool) -> None:
        """Makes it say whether the models would be served."""
        self._is_ready = is_ready
        self._tell()

    def end(self) -> None:
        """Ends every Watch with UNAVAILABLE, once it has been told the latest state."""
        self._is_ending = True
        self._tell()

    async def Check(self, request: _Request, context: _Context) -> _Response:  # noqa: N802
        """The state of that service now; NOT_FOUND for a name that is unknown."""
        if request.service not in HEALTH_SERVICES:
            await context.abort(
                grpc.StatusCode.NOT_FOUND, f"no service {shortened(request.service)}"
            )
        return self._state_of(request.service)

    async def Watch(self, request: _Request, context: _Context) -> None:  # noqa: N802
        """The state of that service now, and again whenever it changes."""
        told = None
        while True:
            has_changed, is_last = self._has_changed, self._is_ending
            state = self._state_of(request.service)
            if state != told:
                await context.write(state)
                told = state
            if is_last:
                await context.abort(grpc.StatusCode.UNAVAILABLE, "the server is shutting down")
            await has_changed.wait()

    def _state_of(self, service: str) -> _Response:
        if service not in HEALTH_SERVICES:
            return _Response(status=_Response.SERVICE_UNKNOWN)
        return _Response(status=_Response.SERVING if self._is_ready else _Response.NOT_SERVING)

    def _tell(self) -> None:
        self._has_changed.set()
        self._has_changed = asyncio.Event()
