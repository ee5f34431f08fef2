"""How a connection to an HTTP/1.1 endpoint is opened: directly, with TLS, or through a proxy."""

from __future__ import annotations

import asyncio
import ssl
from ipaddress import ip_address
from typing import Any

from mlserve.background import run_on_daemon_thread
from mlserve.client.endpoint import Connection, Tls
from mlserve.client.http1 import Http1Connection, Lost
from mlserve.client.http1_answer import AnswerError, AnswerReader
from mlserve.client.proxies import Proxy
from mlserve.deadline import Deadline

_HEAD_START = 0.25
"""Seconds that one address of a host has before the next is tried as well (RFC 8305, 5)."""
_GRACE = 60.0
"""Seconds after the deadline, which ends a handshake before this does."""
_OK, _MULTIPLE_CHOICES = 200, 300


class NotConnected(Exception):
    """No connection could be opened; the message says why."""


class NoTunnel(NotConnected):
    """The proxy answers, and opens no tunnel to the server."""


class Opening:
    """How one process and event loop opens connections to an endpoint."""

    def __init__(self, connection: Connection, proxy: Proxy | None) -> None:
        self._endpoint = connection.endpoint
        self._tls = connection.tls_files
        self._proxy = proxy
        self._guard = asyncio.Lock()
        self._contexts: dict[Tls, ssl.SSLContext] = {}

    async def open(self, deadline: Deadline) -> Http1Connection:
        """Return a new connection; the caller is cancelled at the deadline.

        Raises NotConnected, and UsageError for TLS files that cannot be used.
        """
        endpoint, seconds = self._endpoint, max(0.0, deadline.remaining()) + _GRACE
        context = await self._context(self._tls) if endpoint.is_secure else None
        name = self._tls.server_name or endpoint.host
        try:
            if endpoint.socket:
                return await _to_socket(endpoint.socket)
            if self._proxy is None:
                return await _to_host(endpoint.host, endpoint.port, context, name, seconds)
            connection = await self._to_proxy(self._proxy, seconds)
            if context is not None:
                await self._tunnel(connection, self._proxy, context, seconds)
        except (OSError, UnicodeError) as error:  # an SSLError, or a name that no host can have
            raise NotConnected(str(error) or type(error).__name__) from error
        return connection

    async def _to_proxy(self, proxy: Proxy, seconds: float) -> Http1Connection:
        host, _, port = proxy.address.rpartition(":")
        host = host.strip("[]")
        context = await self._context(Tls()) if proxy.scheme == "https" else None
        return await _to_host(host, int(port), context, host, seconds)

    async def _tunnel(
        self, connection: Http1Connection, proxy: Proxy, context: ssl.SSLContext, seconds: float
    ) -> None:
        """Have the proxy open a tunnel to the server (RFC 9110, 9.3.6), and begin TLS in it."""
        target = in_ascii(self._endpoint.address)
        fields = "".join(f"{name}: {value}\r\n" for name, value in proxy.headers.items())
        head = f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n"
        reader = AnswerReader(0, is_tunnel=True)
        try:
            await connection.ask(head.encode(), b"", reader)
            if not _OK <= reader.status < _MULTIPLE_CHOICES:
                raise NoTunnel(f"{reader.status} {reader.reason}".strip())
            if not connection.is_open:
                raise NoTunnel("the proxy speaks before the server can")
            name = self._tls.server_name or self._endpoint.host
            await connection.secure(context, name, seconds)
        except (Lost, AnswerError) as error:
            raise NoTunnel(str(error)) from error
        except BaseException:
            connection.drop()
            raise

    async def _context(self, files: Tls) -> ssl.SSLContext:
        """Return the TLS context. Reads the files once, on a thread, because a mount may stall."""
        async with self._guard:
            if files not in self._contexts:
                from mlserve.client.tls import ssl_context

                context = await run_on_daemon_thread(ssl_context, files)
                context.set_alpn_protocols(["http/1.1"])
                self._contexts[files] = context
            return self._contexts[files]


async def _to_socket(path: str) -> Http1Connection:
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_unix_connection(Http1Connection, path)
    return connection


async def _to_host(
    host: str, port: int, context: ssl.SSLContext | None, name: str, seconds: float
) -> Http1Connection:
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {}
    if context is not None:
        options = {"ssl": context, "server_hostname": name, "ssl_handshake_timeout": seconds}
    if isinstance(loop, asyncio.BaseEventLoop) and not _is_address(host):
        options["happy_eyeballs_delay"] = _HEAD_START  # other loops, such as uvloop's, lack it
    _, connection = await loop.create_connection(Http1Connection, host, port, **options)
    return connection


def in_ascii(host: str) -> str:
    """Return a host, with or without a port, as it is written in a request (IDNA)."""
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host.encode("ascii", "replace").decode("ascii")  # nobody can be reached by it


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
