"""gRPC without its library, for a process forked after its parent had used that library.

`mlserve.client.forks` explains why. A unary gRPC call is one HTTP/2 stream (PROTOCOL-HTTP2.md of
grpc/grpc): the request headers, one message after a five-byte prefix with its length, and a status
in the trailers. h2 implements HTTP/2; sockets and TLS are asyncio's.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
import struct
from typing import cast
from urllib.parse import unquote

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    PingReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

from mlserve.background import run_on_daemon_thread
from mlserve.client.adapter import Call, Reply
from mlserve.client.endpoint import Connection
from mlserve.client.grpc import reply_of, status_error, unreached
from mlserve.client.proxies import Proxy, proxy_to
from mlserve.client.refusals import (
    NotSpoken,
    Unreadable,
    answer_too_large,
    not_an_answer,
    went_away,
)
from mlserve.client.retries import CallState
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError
from mlserve.wire.status import CODES_OF_GRPC, GRPC_CODES_OF_HTTP

_PREFIX = struct.Struct("!BI")
"""Prefix of a message: a compression flag, and its length in bytes."""
_SHOWN = 80
"""Bytes of a server's first data that an error shows if they are not HTTP/2."""
_MOST_OF_A_HEAD = 2**14
"""Bytes of a proxy's answer that are read."""
_MOST_NOISE = 10_000
"""Limit on frames of one call that bring no data (PING, SETTINGS, empty DATA); some need a reply.
"""
_MOST_MILLISECONDS = 99_999_999
"""`grpc-timeout` has at most eight digits."""


class Http2Transport:
    """HTTP/2 connections to one gRPC port, with one call at a time on each."""

    def __init__(self, connection: Connection) -> None:
        self.endpoint = connection.endpoint
        self._connection = connection
        self._proxy = proxy_to(connection.endpoint)
        self._idle: list[_Http2Connection] = []

    async def send(self, call: Call, state: CallState) -> Reply:
        state.enter("connect", f"connecting to {self.endpoint}")
        connection = await self._open(state.deadline)
        try:
            state.enter("request", f"waiting for the answer of {self.endpoint}")
            headers = self._headers(call, state.require(), state)
            answer = await connection.ask(headers, call.body or b"")
        except BaseException:
            connection.drop()
            raise
        if connection.is_usable:
            self._idle.append(connection)
        return self._read(answer, state.deadline)

    async def close(self) -> None:
        while self._idle:
            self._idle.pop().drop()

    async def _open(self, deadline: Deadline) -> _Http2Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable:
                return connection
        context = await self._ssl_context()
        name = self._connection.tls_files.server_name or self.endpoint.host
        try:
            stream = await self._socket()
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Http2Connection(self._connection),
                sock=stream,
                ssl=context,
                server_hostname=None if context is None else name,
            )
        except OSError as error:  # an SSLError is one too
            raise await self._unreached(str(error), deadline) from error
        try:
            await connection.greet()
        except BaseException as error:
            connection.drop()
            if not isinstance(error, OSError):
                raise
            raise await self._unreached(str(error), deadline) from error
        return connection

    async def _socket(self) -> socket.socket:
        """Return a socket connected to the server, or to the tunnel that the proxy opens to it."""
        if self._proxy is None:
            if self.endpoint.socket:
                return await _connected_to_file(self.endpoint.socket)
            return await _connected(self.endpoint.host, self.endpoint.port)
        host, _, port = self._proxy.address.rpartition(":")
        stream = await _connected(host.strip("[]"), int(port))
        try:
            await _open_tunnel(stream, self.endpoint.address, self._proxy)
        except BaseException:
            stream.close()
            raise
        return stream

    async def _unreached(self, why: str, deadline: Deadline) -> MlserveError:
        return await unreached(self._connection, self._proxy, why, deadline)

    async def _ssl_context(self) -> ssl.SSLContext | None:
        """Return None without TLS. Reads the files on a thread, because a mount may stall."""
        if not self.endpoint.is_secure:
            return None
        from mlserve.client.tls import ssl_context

        files = self._connection.tls_files
        context = await run_on_daemon_thread(ssl_context, files)
        context.set_alpn_protocols(["h2"])
        return context

    def _headers(self, call: Call, seconds: float, state: CallState) -> list[tuple[str, str]]:
        own = {**call.headers, **state.headers(), **self._connection.headers()}
        return [
            (":method", "POST"),
            (":scheme", "https" if self.endpoint.is_secure else "http"),
            (":path", call.path),
            (":authority", self.endpoint.authority),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", _timeout(seconds)),
            *own.items(),
        ]

    def _read(self, answer: _Response, deadline: Deadline) -> Reply:
        code, text = answer.status()
        if code != "OK":
            raise status_error(code, text, answer.headers.items(), self.endpoint, deadline)
        message = answer.message()
        if message is None:
            what = Unreadable("one message of gRPC", repr(bytes(answer.body[:40])))
            raise NotSpoken(not_an_answer(self.endpoint, what))
        return reply_of(message, answer.headers.items())


async def _connected_to_file(path: str) -> socket.socket:
    """Return a socket connected to the UNIX socket of that path. Raises OSError."""
    stream = socket.socket(socket.AF_UNIX)
    stream.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(stream, path)
    except BaseException:
        stream.close()
        raise
    return stream


async def _connected(host: str, port: int) -> socket.socket:
    """Return a socket connected to one of the host's addresses. Raises OSError."""
    loop = asyncio.get_running_loop()
    error = OSError("no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        stream = socket.socket(family, kind, protocol)
        stream.setblocking(False)
        try:
            await loop.sock_connect(stream, address)
        except OSError as refused:
            stream.close()
            error = refused
        except BaseException:
            stream.close()
            raise
        else:
            return stream
    raise error


async def _open_tunnel(stream: socket.socket, target: str, proxy: Proxy) -> None:
    """Ask an HTTP proxy for a tunnel (RFC 9110, 9.3.6). Raises OSError if it refuses."""
    loop = asyncio.get_running_loop()
    fields = {"Host": target, **proxy.headers}
    lines = [f"CONNECT {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    await loop.sock_sendall(stream, "\r\n".join([*lines, "", ""]).encode())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        # Byte by byte, because everything after the head belongs to the server.
        byte = await loop.sock_recv(stream, 1)
        head += byte
        if not byte or len(head) > _MOST_OF_A_HEAD:
            raise OSError("the proxy closed the connection")
    status = head.split(maxsplit=2)[1].decode("latin-1")
    if not status.startswith("2"):
        raise OSError(f"HTTP proxy returned response code {status}")


class _Response:
    """The response on a call's stream: headers (including trailers) and data."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.body = bytearray()

    def status(self) -> tuple[str, str]:
        """Return the name of the status, and its message."""
        number = self.headers.get("grpc-status", "")
        text = unquote(self.headers.get("grpc-message", ""))
        if number.isdecimal():
            return CODES_OF_GRPC.get(int(number), "UNKNOWN"), text
        http = self.headers.get(":status", "")
        code = GRPC_CODES_OF_HTTP.get(int(http) if http.isdecimal() else 0, "UNKNOWN")
        return code, f"Received http2 header with status: {http}"

    def message(self) -> bytes | None:
        """Return the message; None unless it is one whole, uncompressed message."""
        if len(self.body) < _PREFIX.size:
            return None
        is_compressed, size = _PREFIX.unpack_from(self.body)
        message = bytes(self.body[_PREFIX.size :])
        return None if is_compressed or size != len(message) else message


class _Http2Connection(asyncio.Protocol):
    """One HTTP/2 connection, with at most one call on it."""

    def __init__(self, connection: Connection) -> None:
        self._endpoint = connection.endpoint
        self._limit = connection.max_answer_bytes
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._transport: asyncio.Transport | None = None
        self._is_lost = False
        self._first = b""
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._has_room = asyncio.Event()
        self._answer = _Response()
        self._done: asyncio.Future[None] | None = None
        self._noise = 0

    @property
    def is_usable(self) -> bool:
        """Whether another call can be made on it."""
        return not self._is_lost

    async def greet(self) -> None:
        """Wait until the server has spoken HTTP/2. Raises OSError if it does not."""
        await self._greeted

    async def ask(self, headers: list[tuple[str, str]], message: bytes) -> _Response:
        """Send a call and return its response. Raises ConnectionLost and InferenceFailed."""
        self._noise = 0
        self._answer, self._done = _Response(), asyncio.get_running_loop().create_future()
        try:
            stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream, headers)
            await self._send(stream, _PREFIX.pack(0, len(message)) + message)
        except ProtocolError as error:
            self._fail(str(error))
        await self._done
        return self._answer

    def drop(self) -> None:
        """Close the connection, ending a call in progress."""
        self._is_lost = True
        if self._transport is not None:
            self._transport.abort()

    async def _send(self, stream: int, data: bytes) -> None:
        """Send all data, as fast as the server's flow control allows."""
        done, rest = self._done, memoryview(data)
        while rest and done is not None and not done.done():
            size = min(
                len(rest),
                self._h2.local_flow_control_window(stream),
                self._h2.max_outbound_frame_size,
            )
            if size <= 0:
                self._has_room.clear()
                self._flush()
                await self._has_room.wait()
                continue
            self._h2.send_data(stream, bytes(rest[:size]), end_stream=size == len(rest))
            rest = rest[size:]
        self._flush()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._h2.initiate_connection()
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._first = self._first or data[:_SHOWN]
        try:
            events = self._h2.receive_data(data)
        except (ProtocolError, UnicodeDecodeError) as error:
            self._fail(str(error) or type(error).__name__)
            return
        if events and not self._greeted.done():
            self._greeted.set_result(None)
        for event in events:
            self._take(event)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(str(exc or "Socket closed"))

    def _take(self, event: Event) -> None:
        if isinstance(event, ResponseReceived | TrailersReceived):
            self._answer.headers |= {str(key): str(value) for key, value in event.headers}
        elif isinstance(event, DataReceived):
            self._take_data(event)
        elif isinstance(event, PingReceived):
            self._note_noise()
        elif isinstance(event, RemoteSettingsChanged):
            self._note_noise()
            self._has_room.set()  # they may widen the windows of streams (RFC 9113, 6.9.2)
        elif isinstance(event, WindowUpdated):
            self._has_room.set()
        elif isinstance(event, StreamEnded):
            self._end(None)
        elif isinstance(event, StreamReset):
            self._fail(f"RST_STREAM with error code {event.error_code}")
        elif isinstance(event, ConnectionTerminated):
            self._is_lost = True
            if event.last_stream_id == 0 or event.error_code:
                self._fail(f"GOAWAY with error code {event.error_code}")

    def _note_noise(self) -> None:
        self._noise += 1
        if self._noise > _MOST_NOISE:
            self._fail("the server floods the connection with empty frames")

    def _take_data(self, event: DataReceived) -> None:
        if not event.data:
            self._note_noise()
        self._answer.body += event.data
        if len(self._answer.body) > self._limit + _PREFIX.size:
            self._end(answer_too_large(self._endpoint, self._limit))
        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)

    def _fail(self, why: str) -> None:
        """End the connection; the call on it is lost."""
        self.drop()
        if not self._greeted.done():
            self._greeted.set_exception(OSError(f"{why} {self._first!r}" if self._first else why))
            self._greeted.exception()  # mark it as retrieved: it may have no waiter
        self._end(went_away(self._endpoint, why))

    def _end(self, error: MlserveError | None) -> None:
        self._has_room.set()
        if self._done is None or self._done.done():
            return
        if error is None:
            self._done.set_result(None)
        else:
            self._done.set_exception(error)
            self._done.exception()  # mark it as retrieved: it may have no waiter

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)


def _timeout(seconds: float) -> str:
    milliseconds = math.ceil(seconds * 1000)
    if milliseconds <= _MOST_MILLISECONDS:
        return f"{milliseconds}m"
    return f"{min(math.ceil(seconds), _MOST_MILLISECONDS)}S"
