"""What the load is sent to: an address, and requests in ready bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mlserve.bench.connection import LoadConnection, Request
from mlserve.bench.http1 import Http1Connection
from mlserve.client.adapter import Call
from mlserve.client.endpoint import Connection, Endpoint, Tls
from mlserve.client.proxies import proxy_to
from mlserve.errors import UsageError
from mlserve.wire.headers import REQUEST_TIMEOUT_MS

Ended = Callable[[LoadConnection, str, bytes], None]


@dataclass(frozen=True, slots=True)
class Target:
    """A server to send a load to, by its `name`; `requests` are sent in turn.

    `pids` are the processes of the server on this machine, whose children count, too. `model` and
    `api` are only told.
    """

    name: str
    endpoint: Endpoint
    requests: tuple[Request, ...]
    tls: Tls | None = None
    pids: tuple[int, ...] = ()
    model: str | None = None
    api: str | None = None

    @classmethod
    def of_http(
        cls,
        name: str,
        url: str,
        body: bytes,
        *,
        timeout: float,
        headers: Mapping[str, str] | None = None,
        pids: tuple[int, ...] = (),
    ) -> Target:
        """Return a target that gets this body by POST, whatever its server is.

        `timeout` is told to servers that read mlserve's header. Raises UsageError for a bad URL.
        """
        parts = urlsplit(url)
        endpoint = Endpoint.parse(f"{parts.scheme}://{parts.netloc}", "rest")
        path = urlunsplit(("", "", parts.path or "/", parts.query, ""))
        call = Call(path, body, dict(headers or {}))
        head, sent = _http_request(endpoint, call, timeout, {})
        return cls(name, endpoint, (Request(head, sent, timeout),), pids=pids)

    @classmethod
    def of_calls(
        cls,
        name: str,
        connection: Connection,
        calls: Sequence[Call],
        timeout: float,
        *,
        is_told: bool = True,
    ) -> Target:
        """Return the target for calls that the client's adapters have encoded.

        `timeout` is how long the caller waits, which the server is told or not. Raises
        UsageError for a server behind a proxy, which would be measured in its place.
        """
        told = timeout if is_told else None
        pairs = (written(connection, call, told) for call in calls)
        requests = [Request(head, body, timeout, is_told) for head, body in pairs]
        return cls.of_requests(name, connection, requests)

    @classmethod
    def of_requests(cls, name: str, connection: Connection, requests: Sequence[Request]) -> Target:
        """Return the target for requests that `written` has made. Raises as `of_calls` does."""
        require_direct(connection.endpoint)
        return cls(name, connection.endpoint, tuple(requests), connection.tls)

    def left_after(self, waits: Sequence[float]) -> Target:
        """Return the target with callers that leave after so many seconds, in turn.

        Each request is sent once for each of them, in such an order that all come up evenly.
        """
        count = len(self.requests)
        turns = range(count * len(waits)) if waits else ()
        requests = tuple(
            replace(self.requests[turn // len(waits) % count], timeout=waits[turn % len(waits)])
            for turn in turns
        )
        return replace(self, requests=requests or self.requests)

    def opener(self) -> Callable[[Ended], asyncio.Future[LoadConnection]]:
        """Return what opens a connection; its future raises OSError if that is not possible."""
        options: dict[str, object] = {"host": self.endpoint.host, "port": self.endpoint.port}
        if self.endpoint.socket:
            options = {"path": self.endpoint.socket}
        if self.endpoint.is_secure:
            from mlserve.client.tls import ssl_context

            files = self.tls or Tls()
            context = ssl_context(files)
            context.set_alpn_protocols(["h2" if self.endpoint.protocol == "grpc" else "http/1.1"])
            options |= {"ssl": context, "server_hostname": files.server_name or self.endpoint.host}
        return partial(_opened, self.endpoint.protocol == "grpc", options)


def require_direct(endpoint: Endpoint) -> None:
    """Raise UsageError for a server behind a proxy, which would be measured in its place."""
    if proxy := proxy_to(endpoint):
        raise UsageError(
            f"{endpoint} is reached through the proxy {proxy}, which the load would measure",
            hint=f"go there directly: no_proxy={endpoint.host} mlserve bench ...",
        )


def written(
    connection: Connection, call: Call, told: float | None, size: int | None = None
) -> tuple[bytes, bytes]:
    """Return the head and the body of a call in the bytes that are sent (see `Request`).

    `told` is the timeout in seconds that the server is told; None tells it none. `size` is the
    length of a body that is only known when it is sent; None is that of the call's.
    """
    endpoint = connection.endpoint
    if endpoint.protocol == "grpc":
        return _grpc_request(endpoint, call, told, connection.access_headers())
    return _http_request(endpoint, call, told, connection.access_headers(), size)


def _opened(
    is_grpc: bool, options: Mapping[str, object], ended: Ended
) -> asyncio.Future[LoadConnection]:
    return asyncio.ensure_future(_open(is_grpc, options, ended))


async def _open(is_grpc: bool, options: Mapping[str, object], ended: Ended) -> LoadConnection:
    loop = asyncio.get_running_loop()
    is_socket = "path" in options
    connect: Callable[..., Any] = (
        loop.create_unix_connection if is_socket else loop.create_connection
    )
    if not is_grpc:
        _, http1 = await connect(lambda: Http1Connection(ended), **options)
        return http1  # type: ignore[no-any-return]
    from mlserve.bench.http2 import Http2Connection  # REST needs no HPACK

    _, http2 = await connect(lambda: Http2Connection(ended), **options)
    await http2.greeted
    return http2  # type: ignore[no-any-return]


def _http_request(
    endpoint: Endpoint,
    call: Call,
    timeout: float | None,
    access: Mapping[str, str],
    size: int | None = None,
) -> tuple[bytes, bytes]:
    """Return the head and the body; `timeout` None is not told."""
    body = call.body or b""
    told = {} if timeout is None else {REQUEST_TIMEOUT_MS: str(max(1, int(timeout * 1000)))}
    headers = {
        "host": endpoint.authority,
        "accept-encoding": "identity",
        "content-type": "application/json",
        **told,
        **call.headers,
        **access,
        "content-length": str(len(body) if size is None else size),
    }
    lines = [f"POST {endpoint.path}{call.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode(), body


def _grpc_request(
    endpoint: Endpoint, call: Call, timeout: float | None, access: Mapping[str, str]
) -> tuple[bytes, bytes]:
    """Return the header block and the message; `timeout` None is not told."""
    from mlserve.bench.http2 import header_block, message

    told = {}
    if timeout is not None:
        told["grpc-timeout"] = f"{max(1, min(int(timeout * 1000), 99_999_999))}m"
    fields = {
        ":method": "POST",
        ":scheme": "https" if endpoint.is_secure else "http",
        ":path": call.path,
        ":authority": endpoint.authority,
        "te": "trailers",
        "content-type": "application/grpc",
        **told,
        **call.headers,
        **access,
    }
    return header_block(fields.items()), message(call.body or b"")
