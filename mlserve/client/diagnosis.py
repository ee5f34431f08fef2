"""Diagnosis of connections that fail without a reason, by probing what the server speaks.

A transport sees only "closed" if a server of the other protocol hangs up, or one that requires a
certificate. The first bytes on a connection of our own tell which it is.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from contextlib import suppress

from mlserve.background import run_on_daemon_thread
from mlserve.client.endpoint import Connection, Endpoint, Tls
from mlserve.client.proxies import proxy_to
from mlserve.client.tls import certificate_refused, handshake_failure
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, NotFound, UsageError, readable

_PATIENCE = 1.0
"""Seconds for the probe, at most."""
_ALERT_PATIENCE = 0.3
"""Seconds for a server to reject a TLS client after the handshake."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""A client's first bytes in HTTP/2 (RFC 9113, 3.4): the preface and an empty SETTINGS frame."""
_OPTIONS = b"OPTIONS * HTTP/1.1\r\nHost: mlserve\r\nConnection: close\r\n\r\n"
"""A request for nothing in particular (RFC 9110, 9.3.7): any HTTP/1 answer will do."""
_CERTIFICATE_REQUEST = 13
"""The handshake message type (RFC 8446, 4.3.2) by which a server requests a certificate."""
_HANDSHAKE = 22
_FRAME_HEADER = 9
_SETTINGS = 4
_NO_SUCH_HOST = re.compile(
    r"domain name not found|name or service not known|no address associated|nodename nor servname",
    re.IGNORECASE,
)
_HTTP1 = re.compile(r"http1\.x server|missing selected ALPN|b'HTTP/1\.", re.IGNORECASE)


def failure_by_words(endpoint: Endpoint, why: str) -> MlserveError | None:
    """Return the error that a library's message stands for; None if it is not specific enough."""
    if _NO_SUCH_HOST.search(why) and proxy_to(endpoint) is None:
        return NotFound(
            f"the host {endpoint.host} cannot be found ({readable(why)})",
            hint="check the host name, and DNS on this machine",
        )
    if _HTTP1.search(why):
        return other_port(endpoint)
    return handshake_failure(endpoint, why)


async def failure_by_looking(connection: Connection, deadline: Deadline) -> MlserveError | None:
    """Return the error that the server's first bytes stand for; None if they say nothing new.

    Takes at most half of the time left. Probes nothing behind a proxy.
    """
    endpoint, tls = connection.endpoint, connection.tls_files
    if proxy_to(endpoint) is not None:
        return None
    handshake: set[int] = set()
    said = b""
    try:
        async with asyncio.timeout(min(_PATIENCE, deadline.remaining() / 2)):
            said = await _first_bytes(endpoint, tls, handshake)
            is_http2 = endpoint.protocol == "rest" and _protocol_of(said) == "grpc"
            # A proxy may speak both, and have closed the connection because it has no server.
            if is_http2 and _protocol_of(await _answer_in_http1(endpoint, tls)) == "rest":
                return None
    except ssl.SSLError as error:
        return handshake_failure(endpoint, str(error))
    except TimeoutError:
        return None
    except OSError:
        pass  # a reset after the handshake counts as the end
    if not said and _CERTIFICATE_REQUEST in handshake:
        return certificate_refused(endpoint, has_certificate=tls.cert is not None)
    speaks = _protocol_of(said)
    return None if speaks in (None, endpoint.protocol) else other_port(endpoint)


def other_port(endpoint: Endpoint) -> UsageError:
    """Return the error for a port that speaks the other of the two protocols."""
    if endpoint.protocol == "grpc":
        return UsageError(
            f"{endpoint} is a REST port: it speaks HTTP/1.1, and gRPC needs HTTP/2",
            hint=f"ask {_other(endpoint, 'http')}, or give the server's gRPC port",
        )
    return UsageError(
        f"{endpoint} is a gRPC port: it speaks HTTP/2, and REST needs HTTP/1.1",
        hint=f"ask {_other(endpoint, 'grpc')}, or give the server's REST port",
    )


def _other(endpoint: Endpoint, scheme: str) -> str:
    """Return the same address with that scheme."""
    if endpoint.socket:
        return f"{'http+' if scheme == 'http' else ''}{endpoint.address}"
    return f"{scheme}{'s' if endpoint.is_secure else ''}://{endpoint.address}"


async def _first_bytes(endpoint: Endpoint, tls: Tls, handshake: set[int]) -> bytes:
    """Return the server's first bytes to a client that begins to speak HTTP/2.

    Adds the types of its TLS handshake messages to `handshake`.
    """
    context = await _context(endpoint, tls, ["h2", "http/1.1"])
    if context is not None:
        # The module's debugging hook: no public API reports that a server requests a certificate.
        context._msg_callback = _noting(handshake)  # type: ignore[attr-defined] # noqa: SLF001
    reader, writer = await _opened(endpoint, tls, context)
    try:
        if context is not None:
            # In TLS 1.3 a server rejects a client without a certificate after the handshake. A
            # client that writes first may get a reset instead of the server's alert.
            with suppress(TimeoutError):
                async with asyncio.timeout(_ALERT_PATIENCE):
                    return await reader.read(_FRAME_HEADER)
        writer.write(_PREFACE)
        return await reader.read(_FRAME_HEADER)
    finally:
        writer.transport.abort()


async def _answer_in_http1(endpoint: Endpoint, tls: Tls) -> bytes:
    """Return the beginning of the server's answer to an HTTP/1 request."""
    reader, writer = await _opened(endpoint, tls, await _context(endpoint, tls, ["http/1.1"]))
    try:
        writer.write(_OPTIONS)
        return await reader.read(_FRAME_HEADER)
    finally:
        writer.transport.abort()


async def _context(endpoint: Endpoint, tls: Tls, offered: list[str]) -> ssl.SSLContext | None:
    """Return a TLS context that offers these protocols; None for an endpoint without TLS."""
    if not endpoint.is_secure:
        return None
    from mlserve.client.tls import ssl_context

    context = await run_on_daemon_thread(ssl_context, tls)
    context.set_alpn_protocols(offered)
    return context


async def _opened(
    endpoint: Endpoint, tls: Tls, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    if endpoint.socket:
        return await asyncio.open_unix_connection(endpoint.socket)
    name = None if context is None else tls.server_name or endpoint.host
    return await asyncio.open_connection(
        endpoint.host, endpoint.port, ssl=context, server_hostname=name
    )


def _noting(handshake: set[int]) -> Callable[..., None]:
    def note(_c: object, way: str, _v: object, content: int, kind: int, _data: bytes) -> None:
        if way == "read" and content == _HANDSHAKE:
            handshake.add(int(kind))

    return note


def _protocol_of(said: bytes) -> str | None:
    if said.startswith(b"HTTP/1."):
        return "rest"
    is_settings = len(said) == _FRAME_HEADER and said[3] == _SETTINGS and not any(said[5:])
    return "grpc" if is_settings else None
