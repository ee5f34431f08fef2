"""Open the gRPC and the HTTP port, in one event loop; each is bound when it is constructed.

A port takes listening sockets that were passed to the process (`mlserve.activation`) in place of
its own. Those stay open when the process ends: what connects meanwhile waits in the kernel for the
next process. So a port that has such sockets accepts nothing more as soon as the server begins to
end, and its clients are asked to connect anew (`hand_over`).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from google.protobuf import descriptor_pool
from grpc_health.v1 import health_pb2

from mlserve.credentials import tls_context
from mlserve.errors import Unavailable
from mlserve.options import flag_of
from mlserve.server.body_memory import BodyMemory
from mlserve.server.listen import drain
from mlserve.server.listen.access import GrpcGate
from mlserve.server.listen.grpc.connection import GrpcConnection
from mlserve.server.listen.grpc.health import Health
from mlserve.server.listen.grpc.reflection import Reflection
from mlserve.server.listen.grpc.server import GrpcServer, Method
from mlserve.server.listen.http_connection import HttpConnection
from mlserve.server.listen.http_connections import Begin, HttpConnections
from mlserve.server.telemetry.telemetry import Telemetry
from mlserve.settings import ServerSettings
from mlserve.wire.proto._pool import POOL
from mlserve.wire.services import HEALTH

_log = logging.getLogger(__name__)

_BACKLOG = 2048
LAST_WORDS = 2.0
"""Minimum seconds for the responses of finished requests to leave the process."""
_LAST_ANSWERS = 1.0
"""Seconds that HTTP requests still have once the port has been stopped."""
BATCH = 16
"""Connections accepted before the event loop turns to something else."""
_PAUSE = 0.1
"""Seconds before accepting again after the system was out of descriptors or memory."""
_PATIENCE = 1.0
"""Seconds that a TLS handshake may take while others wait to begin theirs."""


class GrpcPort:
    """The gRPC server: the methods passed to `start`, with health and reflection."""

    def __init__(
        self,
        host: str,
        port: int,
        telemetry: Telemetry,
        memory: BodyMemory,
        settings: ServerSettings,
        passed: Sequence[socket.socket] = (),
    ) -> None:
        self._tls = tls_context(settings, "h2") if settings.speaks_tls else None
        gate = GrpcGate.from_settings(settings, telemetry)
        self._server = GrpcServer(settings, memory, None if gate is None else gate.check)
        self._health = Health()
        self._settings = settings
        listeners = _listeners("gRPC", host, port, settings.grpc_socket, passed)
        self._listening = _Listening(listeners, passed, settings, self._tls)
        self.address = _address(listeners[0]) if passed else _join(host, _port(listeners[0]))

    async def start(self, methods: Mapping[str, Method], short_names: Iterable[str] = ()) -> None:
        """Start serving, not ready yet; connections made since the port was bound are served.

        Keys of `methods` are full names, `/<service>/<method>`. The health service reports on
        their services and on the `short_names`.
        """
        services = {path.split("/")[1] for path in methods}
        health_methods = self._health.methods((*services, *short_names))
        reflection = Reflection((*services, HEALTH), _reflection_pool())
        self._server.start({**methods, **health_methods, **reflection.methods()})
        self._listening.accept_own(partial(GrpcConnection, self._server))

    def accept_passed(self) -> None:
        """Begin to accept at the sockets that were passed to the process."""
        self._listening.accept_passed()

    def show_ready(self, is_ready: bool) -> None:
        """Set whether the health service reports the models as being served."""
        self._health.show_ready(is_ready)

    async def hand_over(self, give_up: float) -> None:
        """Leave new connections to the next process, if the sockets were passed to this one.

        Each client is told to send its next calls over another connection; those on their way are
        answered. Returns once no connection is left, or at `give_up` on the event loop's clock.
        """
        if self._listening.is_handed_over:
            await self._listening.hand_over(give_up)
            self._health.end()
            await self._server.hand_over(give_up)

    async def stop(self, seconds: float = LAST_WORDS) -> None:
        """Stop accepting requests, and give finished ones that long to send their answers."""
        give_up = asyncio.get_running_loop().time() + seconds
        self._health.end()
        await self._listening.finish(give_up)
        await self._server.stop(give_up)


class RestPort:
    """The HTTP/1.1 server."""

    def __init__(
        self,
        host: str,
        port: int,
        settings: ServerSettings,
        passed: Sequence[socket.socket] = (),
    ) -> None:
        self._tls = tls_context(settings) if settings.speaks_tls else None
        self._settings = settings
        listeners = _listeners("REST", host, port, settings.rest_socket, passed)
        self._listening = _Listening(listeners, passed, settings, self._tls)
        self._connections: HttpConnections | None = None
        self.address = _address(listeners[0]) if passed else _join(host, _port(listeners[0]))

    async def start(self, begin: Begin) -> None:
        """Start serving; connections made since the port was bound are answered now."""
        most, timeout = self._settings.max_connections, self._settings.header_timeout
        self._connections = HttpConnections(most, timeout, begin)
        self._listening.accept_own(partial(HttpConnection, self._connections))

    def accept_passed(self) -> None:
        """Begin to accept at the sockets that were passed to the process."""
        self._listening.accept_passed()

    async def hand_over(self, give_up: float) -> None:
        """Do as `GrpcPort.hand_over`: each connection ends with its next answer, or once idle."""
        connections = self._connections
        if self._listening.is_handed_over and connections is not None:
            await self._listening.hand_over(give_up)
            connections.is_ending = True
            await drain.close_idle(lambda: connections.open, give_up)

    async def stop(self, seconds: float = LAST_WORDS) -> None:
        """Stop accepting requests, and give finished ones that long to send their answers."""
        give_up = asyncio.get_running_loop().time() + seconds
        await self._listening.finish(give_up)
        connections = self._connections
        if connections is None:  # it was never started
            return
        await drain.close_idle(lambda: connections.open, give_up)
        await connections.end(_LAST_ANSWERS)


class _Listening:
    """The listeners of a port: its own, and those passed to the process, which stay open."""

    def __init__(
        self,
        listeners: Iterable[socket.socket],
        passed: Sequence[socket.socket],
        settings: ServerSettings,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._own = [listener for listener in listeners if listener not in passed]
        self._passed = list(passed)
        self._settings = settings
        self._tls = tls
        self._make: Callable[[], asyncio.Protocol] | None = None
        self._acceptors: list[Acceptor] = []
        self.is_handed_over = bool(passed)
        """Whether another process may go on listening when this one ends."""

    def accept_own(self, make: Callable[[], asyncio.Protocol]) -> None:
        """Accept at its own listeners, each connection with a protocol made by `make`."""
        self._make = make
        while self._own:
            self._accept(self._own.pop(0), make, stays_open=False)

    def accept_passed(self) -> None:
        """Accept at the others too."""
        while self._passed and self._make is not None:
            self._accept(self._passed.pop(0), self._make, stays_open=True)

    async def hand_over(self, give_up: float) -> None:
        """Do as `finish`, and wait for the handshakes that have begun."""
        await self.finish(give_up)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(give_up):
                await asyncio.gather(*(acceptor.wait_closed() for acceptor in self._acceptors))

    async def finish(self, give_up: float) -> None:
        """Accept what the kernel has at its own ones, until that time, then close all."""
        while self._own:
            _close(self._own.pop())
        while self._passed:
            _close(self._passed.pop(), stays_open=True)
        await asyncio.gather(*(acceptor.finish(give_up) for acceptor in self._acceptors))

    def _accept(
        self, listener: socket.socket, make: Callable[[], asyncio.Protocol], *, stays_open: bool
    ) -> None:
        tls = None if listener.family == socket.AF_UNIX else self._tls
        most, timeout = self._settings.max_connections, self._settings.header_timeout
        acceptor = Acceptor(listener, make, most, tls, timeout, stays_open=stays_open)
        self._acceptors.append(acceptor)


class Acceptor:
    """Accept the connections of a listener, each with a protocol made by `make`.

    asyncio's own server accepts up to 2,048 connections (the backlog) before it announces the first
    one, so a limit on connections takes effect too late where few open files are allowed; it then
    logs an endless stream of errors. This one accepts a few at a time.

    At most `most` TLS handshakes run at a time; at that number, those running longest are
    cancelled. A listener that `stays_open` belongs to another process too.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.Protocol],
        most: int,
        tls: ssl.SSLContext | None,
        handshake_timeout: float | None,
        *,
        stays_open: bool = False,
    ) -> None:
        self._listener = listener
        self._stays_open = stays_open
        self._make = make
        self._most = most
        self._tls = tls
        self._handshake_timeout = handshake_timeout if tls is not None else None
        self._loop = asyncio.get_running_loop()
        self._opening: dict[asyncio.Task[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        listener.setblocking(False)
        self._resume()

    async def finish(self, give_up: float) -> None:
        """Accept what the kernel has, until that time on the loop's clock, then close.

        A listener that stays open keeps that for the next process. Does nothing the second time.
        """
        if self._is_closed:
            return
        if not self._stays_open:
            await drain.take_last(self._listener, give_up)
        self.close()

    def close(self) -> None:
        """Close the listener; accepted connections stay open."""
        if not self._is_closed:
            self._is_closed = True
            self._pause(None)
            _close(self._listener, stays_open=self._stays_open)

    async def wait_closed(self) -> None:
        """Wait until every accepted connection has been announced to its protocol."""
        if self._opening:
            await asyncio.wait(self._opening)

    def _accept(self) -> None:
        for _ in range(BATCH):
            if len(self._opening) >= self._most:
                self._pause(_PATIENCE)
                return
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                _log.warning("no connections can be accepted for now: %s", error.strerror)
                self._pause(_PAUSE)
                return
            task = self._loop.create_task(self._open(connection))
            self._opening[task] = self._loop.time()
            task.add_done_callback(self._note_opened)

    async def _open(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._make,
                connection,
                ssl=self._tls,
                ssl_handshake_timeout=self._handshake_timeout,
            )
        except OSError as error:  # a handshake that failed or took too long
            _log.debug("a connection could not be established: %s", error)

    def _note_opened(self, task: asyncio.Task[None]) -> None:
        is_full = len(self._opening) >= self._most
        del self._opening[task]
        if is_full:
            self._resume()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a connection could not be served", exc_info=error)

    def _pause(self, seconds: float | None) -> None:
        """Stop accepting for that long, or for good; connections wait in the kernel's queue."""
        self._loop.remove_reader(self._listener)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_closed:
            return
        if len(self._opening) >= self._most:
            late = self._loop.time() - _PATIENCE
            for task in [task for task, since in self._opening.items() if since <= late]:
                task.cancel()
        self._loop.add_reader(self._listener, self._accept)


def _reflection_pool() -> descriptor_pool.DescriptorPool:
    """Return our private descriptor pool, with gRPC's health service added."""
    POOL.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
    return POOL


def _listeners(
    kind: str, host: str, port: int, unix: Path | None, passed: Sequence[socket.socket]
) -> list[socket.socket]:
    """Return the sockets of a port: one for the address, one for the UNIX socket if there is one.

    Those that were `passed` to the process take the address's place. Raises Unavailable.
    """
    listeners = list(passed) or [_listener(kind, host, port)]
    if unix is None:
        return listeners
    try:
        return [*listeners, _unix_listener(f"{kind.lower()}_socket", unix)]
    except Unavailable:
        for listener in listeners:
            listener.close()
        raise


def _listener(kind: str, host: str, port: int) -> socket.socket:
    """Return a socket that listens there. Raises Unavailable.

    SO_REUSEPORT is not set: with it, two servers would silently share a port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # IPPROTO_TCP must be named: only then does asyncio disable Nagle's algorithm, which would add
    # 40 ms to each response.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        listener.close()
        raise _taken(kind, host, port, error) from error
    return listener


def _unix_listener(name: str, path: Path) -> socket.socket:
    """Return a UNIX socket that listens there, never with TLS. Raises Unavailable.

    A file that a killed server left behind is replaced. As any file that is made, the socket has
    the permissions that the umask leaves: with the usual 022, only its owner may connect.
    """
    listener = socket.socket(socket.AF_UNIX)
    try:
        if _is_left_over(path):
            path.unlink()
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        is_taken = error.errno == errno.EADDRINUSE
        raise Unavailable(
            f"cannot listen on the UNIX socket {path} ({flag_of(name)}): {error.strerror or error}",
            hint=f"something is there already: give another path, or remove {path}"
            if is_taken
            else "give a path of at most 107 bytes in a folder that can be written",
        ) from error
    return listener


def _close(listener: socket.socket, *, stays_open: bool = False) -> None:
    """Close the listener, and remove the file of a UNIX socket that no other process has."""
    if listener.family == socket.AF_UNIX and not stays_open:
        Path(listener.getsockname()).unlink(missing_ok=True)
    listener.close()


def _is_left_over(path: Path) -> bool:
    """Return whether the path is a socket without a listener, as a killed server leaves behind."""
    if not path.is_socket():
        return False
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(str(path)) == errno.ECONNREFUSED


def _address(listener: socket.socket) -> str:
    """Return where a socket that was passed listens: `host:port`, or `unix:PATH`."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(name)}"
    return _join(name[0], name[1])


def _port(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _taken(kind: str, host: str, port: int, error: Exception) -> Unavailable:
    return Unavailable(
        f"cannot listen on {_join(host, port)} for {kind} (the port is taken, or not allowed): "
        f"{error}",
        hint=f"choose another port for {kind}, or stop what listens there",
    )
