"""The two ports of a server: gRPC and HTTP, in one event loop. Each is bound when it is made."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import uvicorn  # noqa: TID253
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from mlserve.errors import Unavailable
from mlserve.protocols.proto._pool import POOL
from mlserve.server.boundary import MAX_MESSAGE_BYTES
from mlserve.server.rest import RestApp

HEALTH_SERVICES = (
    "",
    "tensorflow.serving.PredictionService",
    "tensorflow.serving.ModelService",
    "inference.GRPCInferenceService",
    "PredictionService",
    "ModelService",
)
"""The names that the health service knows; the short ones are TensorFlow Serving's."""
_GRPC_OPTIONS = (
    ("grpc.so_reuseport", 0),  # else two servers would share a port without a word
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", -1),  # the client says what it takes
)
_BACKLOG = 2048
_KEEP_ALIVE = 75
"""Seconds that an idle HTTP connection is kept: longer than clients keep theirs."""
_LAST_WORDS = 2.0
"""Seconds for the responses of finished requests to leave the process."""


class GrpcPort:
    """A gRPC server with health and reflection beside the services it is started with."""

    def __init__(self, host: str, port: int) -> None:
        self._server = grpc.aio.server(options=_GRPC_OPTIONS)
        self._health = health.aio.HealthServicer()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_ready = False
        try:
            bound = self._server.add_insecure_port(_join(host, port))
        except RuntimeError as error:
            raise _taken("gRPC", host, port) from error
        if not bound:
            raise _taken("gRPC", host, port)
        self.address = _join(host, bound)

    def listen_on(self, path: Path) -> None:
        """Listens on a UNIX socket too, without TLS. Raises Unavailable."""
        try:
            self._server.add_insecure_port(f"unix:{path}")
        except RuntimeError as error:
            raise Unavailable(
                f"cannot listen on the UNIX socket {path}: {error}",
                hint="give a path of at most 107 bytes in a folder that can be written",
            ) from error

    async def start(self, services: Sequence[grpc.GenericRpcHandler]) -> None:
        """Starts to serve, not ready yet."""
        self._server.add_generic_rpc_handlers(tuple(services))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [name for name in HEALTH_SERVICES if "." in name]
        names += [health.SERVICE_NAME, reflection.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server, pool=_reflection_pool())
        await self._set_health()
        await self._server.start()

    def show_ready(self, is_ready: bool) -> None:
        """Makes the health service say whether the model would be served."""
        if is_ready != self._is_ready:
            self._is_ready = is_ready
            task = asyncio.create_task(self._set_health())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Stops taking requests and lets the finished ones answer."""
        await self._server.stop(_LAST_WORDS)

    async def _set_health(self) -> None:
        states = health_pb2.HealthCheckResponse
        for name in HEALTH_SERVICES:
            await self._health.set(name, states.SERVING if self._is_ready else states.NOT_SERVING)


class RestPort:
    """An HTTP/1.1 server."""

    def __init__(self, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            # asyncio turns Nagle's delay off only where the protocol is named: 40 ms a response.
            self._socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._socket.bind((host, port))
            self._socket.listen(_BACKLOG)
        except (OSError, OverflowError) as error:
            raise _taken("REST", host, port, f": {error}") from error
        self.address = _join(host, self._socket.getsockname()[1])
        self._task: asyncio.Task[None] | None = None
        self._server: _Uvicorn | None = None

    async def start(self, app: RestApp) -> None:
        """Starts to serve; connections made since the port was bound are answered now."""
        config = uvicorn.Config(
            app,
            http="h11",  # not whatever happens to be installed
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            proxy_headers=False,
            timeout_graceful_shutdown=int(_LAST_WORDS),
        )
        self._server = _Uvicorn(config)
        self._task = asyncio.create_task(self._server.serve([self._socket]))

    async def stop(self) -> None:
        """Stops taking requests and lets the finished ones answer."""
        if self._server is not None and self._task is not None:
            self._server.should_exit = True
            await self._task
        self._socket.close()


class _Uvicorn(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to the process, which drains both ports together."""
        yield


def _reflection_pool() -> descriptor_pool.DescriptorPool:
    """Our private pool with the files of the two services that gRPC itself brings."""
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        POOL.AddSerializedFile(file.serialized_pb)
    return POOL


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _taken(kind: str, host: str, port: int, why: str = "") -> Unavailable:
    return Unavailable(
        f"cannot listen on {_join(host, port)} for {kind}, the port is taken or not allowed{why}",
        hint=f"choose another one with --{kind.lower()}-port",
    )
