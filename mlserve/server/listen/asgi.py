"""Requests as ASGI brings them, for a server that is mounted in another application."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote_to_bytes

from mlserve.server.message import (
    LINGER,
    ClientGone,
    Headers,
    Request,
    Response,
    Result,
    address_of,
)

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

_GONE = "http.disconnect"
_PATH_MARKS = "/:@!$&'()*+,;=~"
"""What a path may hold as it is, besides letters, digits and `-._` (RFC 3986, section 3.3)."""


class AsgiRequest(Request):
    """A request of an ASGI server."""

    __slots__ = ("_has_ended", "_receive", "_send")

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, below = raw_paths(scope)
        super().__init__(
            scope["method"],
            path,
            scope.get("query_string", b""),
            Headers([(name.lower(), value) for name, value in scope["headers"]]),
            scope["http_version"],
            root=scope.get("root_path", ""),
            below=below,
            address=address_of(scope.get("client")),
        )
        self._receive = receive
        self._send = send
        self._has_ended = False

    @property
    def has_arrived(self) -> bool:
        return self._has_ended

    async def next_part(self) -> bytes:
        while not self._has_ended:
            message = await self._receive()
            if message["type"] == _GONE:
                raise ClientGone
            self._has_ended = not message.get("more_body", False)
            if body := message.get("body", b""):
                return bytes(body)
        return b""

    async def while_connected(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        # From now on a request receives nothing but the disconnect.
        answer = asyncio.ensure_future(work())
        told = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait((answer, told), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and told.result()["type"] == _GONE:
                raise ClientGone
            return await answer
        finally:
            told.cancel()
            answer.cancel()

    def answer_at_once(self, response: Response) -> bool:
        return False  # ASGI's `send` has to be waited for

    async def respond(self, response: Response, *, lingers: bool) -> None:
        if not self.http_version.startswith("1"):  # HTTP/2 forbids it (RFC 9113, section 8.2.2)
            response.headers.pop("connection", None)
            # Hypercorn 0.18 drops the whole connection, with every call on it, when more of the
            # body comes after the answer's end.
            lingers = not self.has_arrived
        await send_response(response, self._send, more_body=lingers)
        if lingers:
            with suppress(TimeoutError, ClientGone):
                async with asyncio.timeout(LINGER):
                    while await self.next_part():
                        pass
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def send_response(response: Response, send: Send, *, more_body: bool = False) -> None:
    """Send an answer over ASGI; with `more_body` its end is still to be sent."""
    headers = [(k.encode("latin-1"), v.encode("latin-1")) for k, v in response.headers.items()]
    start = {"type": "http.response.start", "status": response.status, "headers": headers}
    await send(start)
    body = {"type": "http.response.body", "body": response.body, "more_body": more_body}
    await send(body)


def raw_paths(scope: Scope) -> tuple[str, str]:
    """Return the request's path as it was sent, and the part of it below ASGI's `root_path`.

    A framework that mounts this application at `/ml` leaves the path whole and says `/ml` in
    `root_path`, decoded. A server need not tell the raw path: it is then made from the decoded one.
    """
    raw: bytes = scope.get("raw_path") or quote(scope["path"], safe=_PATH_MARKS).encode()
    root: bytes = scope.get("root_path", "").rstrip("/").encode()
    place = _end_of(root, raw) if root else 0
    return raw.decode("ascii", "replace"), raw[place:].decode("ascii", "replace")


def _end_of(root: bytes, raw: bytes) -> int:
    """Return where the escaped path `raw` has spelt out `root`; 0 if it does not begin with it."""
    place = 0
    for byte in root:
        is_escape = raw[place : place + 1] == b"%"
        piece = raw[place : place + (3 if is_escape else 1)]
        if unquote_to_bytes(piece) != bytes((byte,)):
            return 0
        place += len(piece)
    return place if raw[place : place + 1] in (b"", b"/") else 0
