"""Calls over HTTP: bytes in, bytes out, and what each status code means."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

import httpx  # noqa: TID253  this module is imported when a REST endpoint is asked

from mlserve.client.endpoint import Endpoint
from mlserve.client.refusals import (
    NotSpoken,
    Unreadable,
    no_server,
    not_an_answer,
    refusal,
    went_away,
)
from mlserve.client.wire import Call, Reply, Watch
from mlserve.deadline import Deadline
from mlserve.errors import MlserveError
from mlserve.protocols.status import error_from_http

RANDOM_WEIGHTS_HEADER = "x-mlserve-random-weights"
_TIMEOUT_HEADER = "X-Request-Timeout-Ms"
_OK = 200
_JSON_SIZE_HEADER = "Inference-Header-Content-Length"
_NO_SUCH_PATH = {404: "not found", 405: "method not allowed"}
"""What web frameworks say of a path that they do not have, in whatever shape."""
_BAD_REQUEST = 400
_GARBAGE = ("illegal", "malformed", "invalid")


class RestTransport:
    """An HTTP connection pool, opened by the first call."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._client: httpx.AsyncClient | None = None

    async def send(self, call: Call, deadline: Deadline, watch: Watch) -> Reply:
        watch.enter("connect", f"connecting to {self._endpoint}")
        request = self._request(call, deadline, watch)
        try:
            response = await self._open().send(request)
        except httpx.HTTPError as error:
            raise self._lost(error) from error
        if response.status_code != _OK:
            raise self._error(response, deadline)
        is_random = response.headers.get(RANDOM_WEIGHTS_HEADER) == "1"
        return Reply(response.content, is_random, self._json_size(response))

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    def _open(self) -> httpx.AsyncClient:
        if self._client is None:
            self._client = httpx.AsyncClient(
                timeout=None,  # noqa: S113  httpx's timeout is not total; the caller bounds the call
                trust_env=not self._endpoint.is_loopback,  # this machine is never behind a proxy
                verify=self._endpoint.scheme == "https",  # reading the certificates takes time
            )
        return self._client

    def _request(self, call: Call, deadline: Deadline, watch: Watch) -> httpx.Request:
        left_ms = max(1, int(deadline.require(watch.doing) * 1000))
        headers = {_TIMEOUT_HEADER: str(left_ms), "Accept-Encoding": "identity"}
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        headers |= call.headers
        return httpx.Request(
            "GET" if call.body is None else "POST",
            self._endpoint.base_url + call.path,
            headers=headers,
            content=call.body,
            extensions={"trace": self._trace(watch), "timeout": {}},
        )

    def _trace(self, watch: Watch) -> Callable[[str, Any], Awaitable[None]]:
        """Tells the watch which part of the exchange runs."""
        parts = {
            "connection.connect_tcp.started": ("connect", "connecting to"),
            "http11.send_request_headers.started": ("request", "sending the request to"),
            "http11.receive_response_headers.started": ("request", "waiting for the answer of"),
            "http11.receive_response_body.started": ("request", "receiving the answer of"),
        }

        async def trace(event: str, _: Any) -> None:
            if event in parts:
                part, doing = parts[event]
                watch.enter(part, f"{doing} {self._endpoint}")

        return trace

    def _lost(self, error: httpx.HTTPError) -> MlserveError:
        why = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ProxyError | httpx.UnsupportedProtocol):
            return no_server(self._endpoint, why)
        if isinstance(error, httpx.RemoteProtocolError) and any(w in why for w in _GARBAGE):
            return not_an_answer(self._endpoint, Unreadable("HTTP", why))
        if isinstance(error, httpx.DecodingError):
            return not_an_answer(self._endpoint, Unreadable("HTTP in a known encoding", why))
        return went_away(self._endpoint, why)

    def _json_size(self, response: httpx.Response) -> int | None:
        text = response.headers.get(_JSON_SIZE_HEADER)
        if text is None:
            return None
        if not text.isdecimal() or int(text) > len(response.content):
            what = f"as its {_JSON_SIZE_HEADER} says"
            raise NotSpoken(not_an_answer(self._endpoint, Unreadable(what, repr(text))))
        return int(text)

    def _error(self, response: httpx.Response, deadline: Deadline) -> MlserveError | NotSpoken:
        reason = _reason(response)
        body = response.content[:200].decode(errors="backslashreplace")
        refused = refusal(
            error_from_http(response.status_code),
            f"HTTP {response.status_code} {body}" if reason is None else reason,
            self._endpoint,
            deadline,
            retry_after=_seconds(response.headers.get("Retry-After")),
        )
        return NotSpoken(refused) if _is_unknown_path(response, reason) else refused


def _reason(response: httpx.Response) -> str | None:
    """The server's own words, of `{"error": "..."}`; None for a body of another shape."""
    try:
        return str(json.loads(response.content)["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _is_unknown_path(response: httpx.Response, reason: str | None) -> bool:
    """Whether the server has no such path at all; a model server words what it does not have."""
    if response.status_code in _NO_SUCH_PATH:
        return reason is None or reason.lower() == _NO_SUCH_PATH[response.status_code]
    # Triton's whole answer to a path that it does not know.
    return response.status_code == _BAD_REQUEST and not response.content


def _seconds(text: str | None) -> float | None:
    """A Retry-After in seconds; None for a date, which is of no use within a deadline."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None
