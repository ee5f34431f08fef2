"""The HTTP transport: bytes in, bytes out, and what each status code means."""

from __future__ import annotations

import asyncio
import ssl
import sys
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx  # noqa: TID253  this module is imported for REST endpoints only

from mlserve.background import run_on_daemon_thread
from mlserve.client.adapter import Call, Reply
from mlserve.client.codecs import parse_json, shown
from mlserve.client.endpoint import Connection
from mlserve.client.proxies import no_proxy_answers, of_this_proxy, proxy_to, refused_by_proxy
from mlserve.client.refusals import (
    NotSpoken,
    Unreadable,
    answer_too_large,
    no_server,
    not_an_answer,
    refusal,
    seconds,
    went_away,
    without_traceback,
)
from mlserve.client.retries import CallState
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError, readable
from mlserve.wire.headers import (
    PRICE,
    REQUEST_TIMEOUT_MS,
    RETRY_AFTER,
    RETRY_AFTER_MS,
    over_http,
    read_price,
)
from mlserve.wire.status import error_from_http

_OK = 200
_MOST_CONNECTIONS = 256
"""Connections of a client to its server, each with one call at a time."""
_LIMITS = httpx.Limits(
    max_connections=_MOST_CONNECTIONS,
    max_keepalive_connections=_MOST_CONNECTIONS,
    keepalive_expiry=5,
)
"""All connections may be kept: httpx 0.28 closes each that is idle where there are more in all."""
_GZIP = 31  # zlib's wbits for a gzip stream
_NO_SUCH_PATH = {
    404: ("not found", "requested resource is not found, please refer to api document."),
    405: ("method not allowed", "requested method is not allowed, please refer to api document."),
}
"""Standard messages of web frameworks, and TorchServe's, for a path that they do not have."""
_BAD_REQUEST = 400
_OF_PROXIES = (403, 407, 502, 503, 504)
"""Statuses that a proxy sends on its own, without the JSON of a model server's error."""
_OF_TORCHSERVE = {"code", "type", "message"}
_MOST_OF_AN_ERROR = 2**18
"""Bytes of an error's body searched for the exception at the end of a traceback."""
_PUZZLING = (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError)
"""Failures of a connection that do not say what the server objects to."""
_GARBAGE = ("illegal", "malformed", "invalid")


@dataclass(frozen=True, slots=True)
class _Received:
    """An HTTP answer, read to its end."""

    status: int
    headers: httpx.Headers
    body: bytes


class RestTransport:
    """An HTTP connection pool, opened by the first call."""

    def __init__(self, connection: Connection) -> None:
        self.endpoint = connection.endpoint
        self._connection = connection
        self._proxy = proxy_to(connection.endpoint)
        self._client: httpx.AsyncClient | None = None
        # httpx looks at all that wait for a connection whenever one comes or goes.
        self._places = asyncio.Semaphore(_MOST_CONNECTIONS)

    async def send(self, call: Call, state: CallState) -> Reply:
        state.enter("connect", self._connecting)
        client = await self._open()
        if self._places.locked():
            state.enter("connect", f"waiting for one of {_MOST_CONNECTIONS} connections to be free")
        handled = sys.exception()
        try:
            async with self._places:
                answer = await self._exchange(client, self._request(call, state), state)
        except httpx.HTTPError as error:
            raise await self._lost(error, _first_words(error, handled), state.deadline) from error
        if answer.status != _OK:
            raise self._error(answer, state.deadline)
        return Reply(answer.body, dict(answer.headers))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    @property
    def _connecting(self) -> str:
        through = f" through {self._proxy}" if self._proxy else ""
        return f"connecting to {self.endpoint}{through}"

    async def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            verify = await self._ssl_context()
            self._client = self._client or httpx.AsyncClient(
                timeout=None,  # noqa: S113  httpx's timeout is not total; the caller bounds the call
                trust_env=False,
                proxy=self._httpx_proxy(),
                verify=verify,
                limits=_LIMITS,
                transport=self._unix_socket(),
            )
        return self._client

    def _unix_socket(self) -> httpx.AsyncHTTPTransport | None:
        path = self.endpoint.socket
        return httpx.AsyncHTTPTransport(uds=path, trust_env=False, limits=_LIMITS) if path else None

    def _httpx_proxy(self) -> httpx.Proxy | None:
        if self._proxy is None:
            return None
        return httpx.Proxy(self._proxy.url, headers=self._proxy.headers)

    async def _ssl_context(self) -> ssl.SSLContext | bool:
        """Return False without TLS. Reads the files on a thread, because a mount may stall."""
        if not self.endpoint.is_secure:
            return False
        from mlserve.client.tls import ssl_context

        return await run_on_daemon_thread(ssl_context, self._connection.tls_files)

    async def _exchange(
        self, client: httpx.AsyncClient, request: httpx.Request, state: CallState
    ) -> _Received:
        response = await client.send(request, stream=True)
        try:
            unpack = _unpacking(response.headers)
            body = bytearray()
            async for piece in response.aiter_raw():
                state.require()  # pieces without a pause starve the timer
                body += unpack(piece, self._connection.max_answer_bytes + 1 - len(body))
                if len(body) > self._connection.max_answer_bytes:
                    raise answer_too_large(self.endpoint, self._connection.max_answer_bytes)
        finally:
            await response.aclose()
        return _Received(response.status_code, response.headers, bytes(body))

    def _request(self, call: Call, state: CallState) -> httpx.Request:
        left_ms = max(1, int(state.require() * 1000))
        headers = {REQUEST_TIMEOUT_MS: str(left_ms), "accept-encoding": "identity"}
        if call.body is not None:
            headers["content-type"] = "application/json"
        headers |= call.headers
        headers |= state.ids.headers() | self._connection.headers()
        extensions: dict[str, Any] = {"trace": self._trace(state), "timeout": {}}
        if name := self._connection.tls_files.server_name:
            extensions["sni_hostname"] = name
        return httpx.Request(
            "GET" if call.body is None else "POST",
            self.endpoint.base_url + call.path,
            headers=headers,
            content=call.body,
            extensions=extensions,
        )

    def _trace(self, state: CallState) -> Callable[[str, Any], Awaitable[None]]:
        """Return a trace hook that tells `state` which part of the exchange runs."""
        parts = {
            "connection.connect_tcp.started": ("connect", self._connecting),
            "http11.send_request_headers.started": (
                *("request", f"sending the request to {self.endpoint}"),
            ),
            "http11.receive_response_headers.started": (
                *("request", f"waiting for the answer of {self.endpoint}"),
            ),
            "http11.receive_response_body.started": (
                *("request", f"receiving the answer of {self.endpoint}"),
            ),
        }

        async def trace(event: str, _: Any) -> None:
            if event in parts:
                state.enter(*parts[event])

        return trace

    async def _lost(self, error: httpx.HTTPError, why: str, deadline: Deadline) -> MlserveError:
        from mlserve.client.diagnosis import failure_by_looking, failure_by_words
        from mlserve.client.tls import closing_hint

        failure = failure_by_words(self.endpoint, why)
        if failure is None and isinstance(error, _PUZZLING):
            failure = await failure_by_looking(self._connection, deadline)
        if failure is not None:
            return failure
        if isinstance(error, httpx.ConnectError | httpx.ProxyError | httpx.UnsupportedProtocol):
            return self._unreached(error, why)
        if isinstance(error, httpx.RemoteProtocolError) and any(w in why for w in _GARBAGE):
            return not_an_answer(self.endpoint, Unreadable("HTTP", why))
        if isinstance(error, httpx.DecodingError):
            return not_an_answer(self.endpoint, Unreadable("HTTP in a known encoding", why))
        hint = closing_hint(self.endpoint, has_certificate=self._connection.has_certificate)
        return went_away(self.endpoint, why, hint)

    def _unreached(self, error: httpx.HTTPError, why: str) -> MlserveError:
        if self._proxy is None:
            return no_server(self.endpoint, why)
        tell = refused_by_proxy if isinstance(error, httpx.ProxyError) else no_proxy_answers
        return tell(readable(why), self._proxy, self.endpoint)

    def _error(self, answer: _Received, deadline: Deadline) -> MlserveError | NotSpoken:
        reason = _reason(answer)
        body = answer.body[:_MOST_OF_AN_ERROR].decode(errors="backslashreplace")
        body = without_traceback(body)[:200]
        if self._proxy and reason is None and answer.status in _OF_PROXIES:
            said = f"HTTP {answer.status} {readable(body)}"
            return of_this_proxy(answer.status, said, self._proxy, self.endpoint, deadline)
        refused = refusal(
            error_from_http(answer.status),
            f"HTTP {answer.status} {body}" if reason is None else reason,
            self.endpoint,
            deadline,
            retry_after=_retry_after(answer.headers),
            price=read_price(answer.headers.get(over_http(PRICE), "")),
            sender=answer.headers.get("Server", ""),
        )
        return NotSpoken(refused) if _is_unknown_path(answer, reason) else refused


def _unpacking(headers: httpx.Headers) -> Callable[[bytes, int], bytes]:
    """Return a function that decodes a piece of the body to at most so many bytes.

    The request accepts no coding, but gzip is decoded all the same. httpx's decoders are not used:
    they unpack a whole piece, however large, before we can count. Raises httpx.DecodingError.
    """
    coding = headers.get("Content-Encoding", "identity").strip().lower()
    if coding == "identity":
        return lambda piece, _most: piece
    if coding not in ("gzip", "x-gzip"):
        raise httpx.DecodingError(f"Content-Encoding {coding[:100]!r}")
    packed = zlib.decompressobj(_GZIP)

    def unpack(piece: bytes, most: int) -> bytes:
        try:
            return packed.decompress(piece, most)
        except zlib.error as error:
            raise httpx.DecodingError(str(error)) from error

    return unpack


def _first_words(error: BaseException, handled: BaseException | None) -> str:
    """Return the message of the innermost exception: the outer ones may say nothing, or less.

    `handled` is the exception already being handled when the library was called, such as an earlier
    refusal: Python links it to the library's, but it is unrelated.
    """
    words = ""
    cause: BaseException | None = error
    while cause is not None and cause is not handled:
        words = str(cause) or words
        cause = cause.__cause__ or cause.__context__
    return words or type(error).__name__


def _reason(answer: _Received) -> str | None:
    """Return the server's message from `{"error": "..."}`; None for a body of another shape.

    TorchServe's shape is `{"code": 404, "type": "...", "message": "..."}`.
    """
    if len(answer.body) > _MOST_OF_AN_ERROR:
        return None
    try:
        body = parse_json(answer.body)
        said = body["message"] if body.keys() == _OF_TORCHSERVE else body["error"]
    except (Unreadable, KeyError):
        return None
    return said if isinstance(said, str) else shown(said)


def _is_unknown_path(answer: _Received, reason: str | None) -> bool:
    """Return whether the server has no such path; for a missing model it sends its own message."""
    if answer.status in _NO_SUCH_PATH:
        return reason is None or reason.lower() in _NO_SUCH_PATH[answer.status]
    # Triton sends an empty 400 for an unknown path.
    return answer.status == _BAD_REQUEST and not answer.body


def _retry_after(headers: httpx.Headers) -> float | None:
    """Return seconds; a date is useless within a deadline, and counts as None."""
    milliseconds = seconds(headers.get(RETRY_AFTER_MS))
    return seconds(headers.get(RETRY_AFTER)) if milliseconds is None else milliseconds / 1000
