"""A request on a connection of the server's own port: its body as it arrives, and its response."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Any, Protocol

from mlserve.admission.retry_after import UNKNOWN
from mlserve.server.message import LINGER, ClientGone, Headers, Request, Response, Result
from mlserve.server.peer import Peer
from mlserve.wire.headers import RETRY_AFTER

STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus
} | {499: "HTTP/1.1 499 \r\n"}
_MOST_AHEAD_BYTES = 64 * 2**10
"""Bytes of a body that may wait to be consumed before reading pauses.

So a connection holds at most 192 KiB that `BodyMemory` does not count.
"""
_BAD_IN_HEADERS = re.compile(r"[\0-\x08\x0a-\x1f\x7f]")
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(Protocol):
    """What a request needs of its connection."""

    address: str
    """The client's IP address; empty over a UNIX socket."""
    peer: Peer
    """What the kernel knows of the client."""
    is_full: bool
    """Whether the client does not read fast enough."""

    def write(self, *parts: bytes) -> None:
        """Write these, in one system call if they are short."""

    async def drained(self) -> None:
        """Wait until the client has read enough, or has left."""

    def resume_reading(self) -> None:
        """Take more of what the client sends."""

    def on_answered(self, request: HttpRequest) -> None:
        """Turn to what follows the request, whose response is written."""


class HttpRequest(Request):
    """A request on a connection of the server's own port, and its place in the turn."""

    __slots__ = (
        *("_body", "_connection", "_expects", "_has_begun", "_serving", "_size", "_waiter"),
        *("is_answered", "is_gone", "keeps_alive", "more_body"),
    )

    def __init__(
        self,
        connection: Connection,
        target: tuple[str, str, bytes],
        headers: list[tuple[bytes, bytes]],
        version: str,
        *,
        keeps_alive: bool,
    ) -> None:
        sent = Headers(headers)
        super().__init__(*target, sent, version, address=connection.address, peer=connection.peer)
        self._connection = connection
        self._body: list[bytes] = []
        self._size = 0
        self._expects = "expect" in sent and _waits_for_continue(sent, version)
        self._has_begun = False
        self._serving: asyncio.Task[Any] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self.keeps_alive = keeps_alive
        self.more_body = True
        self.is_answered = False
        self.is_gone = False

    @property
    def has_begun(self) -> bool:
        """Whether a part of the response has been written."""
        return self._has_begun

    @property
    def is_ahead(self) -> bool:
        """Whether as much of the body as may wait is here, and more is to come."""
        return self.more_body and self._size > _MOST_AHEAD_BYTES

    @property
    def has_arrived(self) -> bool:
        return not self.more_body

    async def next_part(self) -> bytes:
        while not self._body:
            if self.is_gone or self.is_answered:
                raise ClientGone
            if not self.more_body:
                return b""
            if self._expects:
                self._expects = False
                self._connection.write(_CONTINUE)
            self._connection.resume_reading()
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        part = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body.clear()
        self._size = 0
        return part

    async def while_connected(self, work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        if self.is_gone:
            raise ClientGone
        self._serving = task = asyncio.current_task()
        assert task is not None
        try:
            return await work()
        except asyncio.CancelledError:
            if self.is_gone and task.uncancel() == 0:
                raise ClientGone from None
            raise
        finally:
            self._serving = None

    def answer_at_once(self, response: Response) -> bool:
        closes = response.closes or not self.keeps_alive
        if self._connection.is_full or (self.more_body and (closes or self._expects)):
            return False
        if not self.is_gone:
            self._write(response)
            self._body.clear()
            self._size = 0
            self._connection.on_answered(self)
        return True

    async def respond(self, response: Response, *, lingers: bool) -> None:
        connection = self._connection
        if connection.is_full:
            await connection.drained()
        if self.is_gone:
            return
        if self._expects and self.more_body:
            # The client may leave its body out now, and what it sends next would be taken for that.
            self._expects, self.keeps_alive, lingers = False, False, True
        lingers = lingers or (self.more_body and not self.keeps_alive)
        self._write(response)
        if lingers:
            try:
                async with asyncio.timeout(LINGER):
                    while await self.next_part():
                        pass
            except (TimeoutError, ClientGone):
                pass
        if not self.is_gone:
            connection.on_answered(self)

    def _write(self, response: Response) -> None:
        self._has_begun = True
        self.keeps_alive = self.keeps_alive and not response.closes
        self._connection.write(*self._written(response))

    def _written(self, response: Response) -> tuple[bytes, bytes]:
        """Return the head and the body as they go over the wire."""
        fields = [f"{name}: {value}" for name, value in response.headers.items()]
        if not self.keeps_alive and not response.closes:
            fields.append("connection: close")
        block = "\t".join(fields)
        if _BAD_IN_HEADERS.search(block):
            raise RuntimeError("a header of the answer has a control character")
        head = "".join((STATUS_LINES[response.status], "\r\n".join(fields), "\r\n\r\n"))
        return head.encode("latin-1"), b"" if self.method == "HEAD" else response.body

    # Called by the connection.

    def take(self, body: bytes) -> None:
        """Take a part of the body."""
        self._expects = False
        self._body.append(body)
        self._size += len(body)
        self._wake()

    def end_body(self) -> None:
        """Note that the body is whole."""
        self.more_body = False
        self._wake()

    def lose(self) -> None:
        """Note that the client has left."""
        if self.is_gone:
            return
        self.is_gone = True
        self._body.clear()
        self._wake()
        if self._serving is not None:
            self._serving.cancel()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _waits_for_continue(headers: Headers, version: str) -> bool:
    """Return whether the client may wait for a 100 before the body; in HTTP/1.0 there is none."""
    return version != "1.0" and headers.get("expect").lower() == "100-continue"


def last_response(status: HTTPStatus, message: str) -> bytes:
    """Return a whole response that is an error, after which the connection closes."""
    body = json.dumps({"error": message}).encode()
    head = (
        f"{STATUS_LINES[status.value]}Content-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n"
    )
    if status is HTTPStatus.SERVICE_UNAVAILABLE:
        head += f"{RETRY_AFTER.title()}: {math.ceil(UNKNOWN)}\r\n"
    return head.encode() + b"\r\n" + body
