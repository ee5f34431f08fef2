"""Why a connection fails whose end says nothing: one look at what the other side speaks.

gRPC's library and httpx see only "closed" where a server of the other protocol hangs up, or one
that wants a certificate. The first bytes of a connection of our own say which it is.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from contextlib import suppress

from mlserve.client.endpoint import Connection, Endpoint, Tls
from mlserve.client.proxies import proxy_to
from mlserve.client.tls import certificate_refused, handshake_failure
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, NotFound, UsageError, readable
from mlserve.threads import on_daemon_thread

_PATIENCE = 1.0
"""Seconds for the look, at most."""
_ALERT_PATIENCE = 0.3
"""Seconds that a server has to refuse a TLS client, after the handshake."""
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
"""How a client begins HTTP/2 (RFC 9113, 3.4): the preface and an empty SETTINGS frame."""
_OPTIONS = b"OPTIONS * HTTP/1.1\r\nHost: mlserve\r\nConnection: close\r\n\r\n"
"""A request that asks for nothing (RFC 9110, 9.3.7): any answer in HTTP/1 will do."""
_CERTIFICATE_REQUEST = 13
"""The type of a handshake message (RFC 8446, 4.3.2): the server asks for a certificate."""
_HANDSHAKE = 22
_FRAME_HEADER = 9
_SETTINGS = 4
_NO_SUCH_HOST = re.compile(
    r"domain name not found|name or service not known|no address associated|nodename nor servname",
    re.IGNORECASE,
)
_HTTP1 = re.compile(r"http1\.x server|missing selected ALPN|b'HTTP/1\.", re.IGNORECASE)


def failure_by_words(endpoint: Endpoint, why: str) -> MlserveError | None:
    """The error that a library's words stand for; None when they do not say enough."""
    if _NO_SUCH_HOST.search(why) and proxy_to(endpoint) is None:
        return NotFound(
            f"the host {endpoint.host} cannot be found ({readable(why)})",
            hint="check the host name, and DNS on this machine",
        )
    if _HTTP1.search(why):
        return other_port(endpoint)
    return handshake_failure(endpoint, why)


async def failure_by_looking(connection: Connection, deadline: Deadline) -> MlserveError | None:
    """The error that the server's first bytes stand for; None when they say nothing new.

    Takes at most half of the time that is left. Behind a proxy nothing is looked at.
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
            # A proxy may speak both, and have closed the connection for want of a server.
            if is_http2 and _protocol_of(await _answer_in_http1(endpoint, tls)) == "rest":
                return None
    except ssl.SSLError as error:
        return handshake_failure(endpoint, str(error))
    except TimeoutError:
        return None
    except OSError:
        pass  # a reset after the handshake is as good as an end
    if not said and _CERTIFICATE_REQUEST in handshake:
        return certificate_refused(endpoint, has_certificate=tls.cert is not None)
    speaks = _protocol_of(said)
    return None if speaks in (None, endpoint.protocol) else other_port(endpoint)


def other_port(endpoint: Endpoint) -> UsageError:
    """The error for a port that speaks the other one of the two protocols."""
    secure = "s" if endpoint.is_secure else ""
    if endpoint.protocol == "grpc":
        return UsageError(
            f"{endpoint} is a REST port: it speaks HTTP/1.1, and gRPC needs HTTP/2",
            hint=f"ask http{secure}://{endpoint.address}, or give the server's gRPC port",
        )
    return UsageError(
        f"{endpoint} is a gRPC port: it speaks HTTP/2, and REST needs HTTP/1.1",
        hint=f"ask grpc{secure}://{endpoint.address}, or give the server's REST port",
    )


async def _first_bytes(endpoint: Endpoint, tls: Tls, handshake: set[int]) -> bytes:
    """Return what the server says first to a client that begins to speak HTTP/2.

    The types of its TLS handshake messages are added to `handshake`.
    """
    context = await _context(endpoint, tls, ["h2", "http/1.1"])
    if context is not None:
        # The module's debugging hook: nothing public tells of a request for a certificate.
        context._msg_callback = _noting(handshake)  # type: ignore[attr-defined] # noqa: SLF001
    reader, writer = await _opened(endpoint, tls, context)
    try:
        if context is not None:
            # In TLS 1.3 a server refuses a client without a certificate after the handshake. Who
            # writes before may get a reset, and never the server's alert.
            with suppress(TimeoutError):
                async with asyncio.timeout(_ALERT_PATIENCE):
                    return await reader.read(_FRAME_HEADER)
        writer.write(_PREFACE)
        return await reader.read(_FRAME_HEADER)
    finally:
        writer.transport.abort()


async def _answer_in_http1(endpoint: Endpoint, tls: Tls) -> bytes:
    """Return the beginning of the server's answer to a request in HTTP/1."""
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

    context = await asyncio.wrap_future(on_daemon_thread(ssl_context, tls))
    context.set_alpn_protocols(offered)
    return context


async def _opened(
    endpoint: Endpoint, tls: Tls, context: ssl.SSLContext | None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
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
