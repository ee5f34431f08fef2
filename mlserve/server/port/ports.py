"""The two ports of a server: gRPC and HTTP, in one event loop. Each is bound when it is made."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import cast

import grpc
import uvicorn  # noqa: TID253
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from starlette.types import ASGIApp  # noqa: TID253

from mlserve.credentials import read_token
from mlserve.errors import Unavailable
from mlserve.protocols.proto._pool import POOL
from mlserve.server.port import last_connections
from mlserve.server.port.accepting import Acceptor
from mlserve.server.port.access import GrpcGate
from mlserve.server.port.connections import HttpConnection, HttpConnections
from mlserve.server.port.health import HEALTH_SERVICES, Health
from mlserve.server.port.tls import grpc_credentials
from mlserve.server.sight.requests import Sight
from mlserve.settings import DEFAULT_SETTINGS, ServerSettings
from mlserve.tls_files import tls_context

_STREAMS = 1024
_LARGEST = 2**31 - 1
"""What a channel argument can hold."""
_METADATA_BYTES = 16 * 2**10
_BACKLOG = 2048
_KEEP_ALIVE = 75
"""Seconds that an idle HTTP connection is kept: longer than clients keep theirs."""
LAST_WORDS = 2.0
"""Seconds at least for the responses of finished requests to leave the process."""


class GrpcPort:
    """A gRPC server with health and reflection beside the services it is started with."""

    def __init__(
        self, host: str, port: int, sight: Sight, settings: ServerSettings = DEFAULT_SETTINGS
    ) -> None:
        credentials, token = grpc_credentials(settings), settings.token_file
        self._server = grpc.aio.server(
            options=_grpc_options(settings),
            interceptors=[] if token is None else [GrpcGate(read_token(token), sight)],
        )
        self._health = Health()
        try:
            if credentials is None:
                bound = self._server.add_insecure_port(_join(host, port))
            else:
                bound = self._server.add_secure_port(_join(host, port), credentials)
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
        await self._server.start()

    def show_ready(self, is_ready: bool) -> None:
        """Makes the health service say whether the model would be served."""
        self._health.show_ready(is_ready)

    async def stop(self, seconds: float = LAST_WORDS) -> None:
        """Stops taking requests and gives the finished ones that long to answer."""
        self._health.end()
        await self._server.stop(seconds)


class RestPort:
    """An HTTP/1.1 server."""

    def __init__(self, host: str, port: int, settings: ServerSettings = DEFAULT_SETTINGS) -> None:
        self._tls = tls_context(settings) if settings.speaks_tls else None
        self._connections = HttpConnections(settings.max_connections, settings.header_timeout)
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

    async def start(self, app: ASGIApp) -> None:
        """Starts to serve; connections made since the port was bound are answered now."""
        config = uvicorn.Config(
            app,
            http=partial(HttpConnection, port=self._connections),  # type: ignore[arg-type]
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            proxy_headers=False,
            timeout_graceful_shutdown=1,  # `stop` has waited before
        )
        self._server = _Uvicorn(config, self._tls, self._connections)
        self._task = asyncio.create_task(self._server.serve([self._socket]))

    async def stop(self, seconds: float = LAST_WORDS) -> None:
        """Stops taking requests and gives the finished ones that long to answer."""
        if self._server is not None and self._task is not None:
            if self._server.started:
                await self._server.finish(self._socket, seconds)
            self._server.should_exit = True
            await self._task
        self._socket.close()


class _Uvicorn(uvicorn.Server):
    def __init__(
        self, config: uvicorn.Config, tls: ssl.SSLContext | None, connections: HttpConnections
    ) -> None:
        super().__init__(config)
        self._tls = tls
        self._connections = connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens as uvicorn does, with limits of number and time for TLS handshakes."""
        await self.lifespan.startup()
        make: Callable[[], asyncio.Protocol] = partial(
            self.config.http_protocol_class,  # type: ignore[call-arg]
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
        )
        most, timeout = self._connections.most, self._connections.head_timeout
        self.servers = [
            cast("asyncio.Server", Acceptor(listener, make, most, self._tls, timeout))
            for listener in sockets or ()
        ]
        self.started = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals to the process, which drains both ports together."""
        yield

    async def finish(self, listener: socket.socket, seconds: float) -> None:
        """Answers what has reached the port, and closes every connection that gets idle."""
        give_up = asyncio.get_running_loop().time() + seconds
        await last_connections.take_last(listener, give_up)
        for server in self.servers:
            server.close()
        await last_connections.close_idle(lambda: self.server_state.connections, give_up)


def _reflection_pool() -> descriptor_pool.DescriptorPool:
    """Our private pool with the files of the two services that gRPC itself brings."""
    for file in (health_pb2.DESCRIPTOR, reflection_pb2.DESCRIPTOR):
        POOL.AddSerializedFile(file.serialized_pb)
    return POOL


def _grpc_options(settings: ServerSettings) -> tuple[tuple[str, int], ...]:
    """The channel arguments of gRPC, named in its channel_arg_names.h; times are milliseconds."""
    return (
        ("grpc.so_reuseport", 0),  # else two servers would share a port without a word
        ("grpc.max_receive_message_length", min(_LARGEST, settings.max_request_bytes)),
        ("grpc.max_send_message_length", -1),  # the client says what it takes
        ("grpc.max_allowed_incoming_connections", min(_LARGEST, settings.max_connections)),
        # Refusing is the queue's business: calls above this wait at the client, without a word.
        ("grpc.max_concurrent_streams", _STREAMS),
        ("grpc.max_metadata_size", _METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", _METADATA_BYTES),
        ("grpc.server_handshake_timeout_ms", _milliseconds(settings.header_timeout)),
        # A client that is gone without a word (power, cable) gives its connection back.
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.max_connection_idle_ms", _idle_ms(settings.max_connections)),
        # Clients may ask for a sign of life as often as this (gRPC's own: each 5 minutes).
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_ping_strikes", 2),
    )


def _milliseconds(seconds: float) -> int:
    return min(_LARGEST, round(seconds * 1000))


def _idle_ms(connections: int) -> int:
    """How long an idle gRPC connection is kept: the fewer there may be, the sooner it gives way."""
    return min(300_000, max(5_000, 300 * connections))


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _taken(kind: str, host: str, port: int, why: str = "") -> Unavailable:
    return Unavailable(
        f"cannot listen on {_join(host, port)} for {kind}, the port is taken or not allowed{why}",
        hint=f"choose another one with --{kind.lower()}-port",
    )
