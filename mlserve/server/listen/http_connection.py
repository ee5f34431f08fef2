"""HTTP connections: uvicorn's, with limits on their number, time and size.

uvicorn does not limit the time for a request's head. Here a connection is either at work, from the
end of a request to the end of its response, or waiting. A connection that waits too long for a
request's head is closed. At the connection limit, the one that has waited longest gives way to a
new one.

The parser (llhttp, through httptools) consumes all incoming data at once, including pipelined
requests, and has no limits of its own: `framing_of` and the connection enforce them.

uvicorn has no hooks for this, so `HttpConnection` overrides methods of its protocol and reads its
state: `cycle`, `pipeline`, `connections`, `_unset_keepalive_if_required`, `_should_upgrade`. They
are not uvicorn's public interface, so pyproject.toml restricts uvicorn to versions whose code was
reviewed and tested.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Sequence
from enum import Enum
from http import HTTPStatus
from typing import Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from mlserve.server.engine.retry_after import UNKNOWN
from mlserve.server.listen.drain import is_readable
from mlserve.wire.headers import RETRY_AFTER

MOST_HEAD_BYTES = 64 * 2**10
"""Bytes of a request's head, and of the framing between two chunks of its body."""
_MARKS = len(": \r\n")
_VERSIONS = ("1.0", "1.1")
_FRAMING = (b"content-length", b"transfer-encoding")
_SILENCED = logging.getLogger(f"{__name__}.uvicorn")
_SILENCED.setLevel(logging.ERROR)  # clients may send garbage: log only our own failures
_LINGER = 1.0
"""Seconds for a refused client to read why: after an immediate close it might see only a reset."""
_MOST_LINGERING = 100
"""Refused clients that linger at the same time; at most a quarter of the connections."""
_READ_AT_ONCE = 128 * 2**10
"""Bytes read from a connection at once, in place of asyncio's 256 KiB (except with TLS).

uvicorn pauses reading once more than 64 KiB of a body wait to be consumed, so that a connection
holds at most 192 KiB that `BodyMemory` does not count.
"""
_MOST_AHEAD = 16
"""Pipelined requests that a connection may queue before the answer to the first."""
_MOST_JOINED = 64 * 2**10
"""Bytes of a body above which joining it to the head costs more than a second write."""


class _Part(Enum):
    """The part of a request that the parser is in."""

    NOTHING = "nothing"
    HEAD = "head"
    BODY = "body"


class HttpConnections:
    """State shared by the connections of a port: limits, and the waiting ones, longest first.

    `most` is the number of connections, `head_timeout` the seconds for a request's head.
    """

    def __init__(self, most: int, head_timeout: float) -> None:
        self.most = most
        self.head_timeout = head_timeout
        self.waiting: dict[HttpConnection, None] = {}
        self.lingering = 0
        self.most_lingering = min(_MOST_LINGERING, max(1, most // 4))

    def close_longest_waiting(self) -> bool:
        """Close the longest-waiting connection without unread data; return whether one."""
        for connection in self.waiting:
            if not connection.has_unread():
                connection.give_way()
                return True
        return False


class HttpConnection(HttpToolsProtocol):
    """One HTTP/1.1 connection of uvicorn's, held to the limits of its port.

    `active_at` is when it was opened, or last received or answered something, by the loop's clock.
    """

    def __init__(self, *args: Any, port: HttpConnections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _SILENCED
        self._port = port
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._fault: Fault | None = None
        self._part = _Part.NOTHING
        self._has_advanced = False
        self._bytes_without_advance = 0
        self._framing = b""
        self._is_body_resumed = False
        self.active_at = 0.0
        self._served: RequestResponseCycle | None = None
        """The request being answered, or answered last; `cycle` is the one received last."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept the connection; answer 503 if it exceeds the limit and all others are at work."""
        super().connection_made(transport)
        transport.max_size = _READ_AT_ONCE  # type: ignore[attr-defined]
        self.active_at = self.loop.time()
        if len(self.connections) > self._port.most and not self._port.close_longest_waiting():
            self._refuse_for_room()
            return
        self._port.waiting[self] = None
        self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        """Parse incoming data; after a refusal or fault, discard the rest."""
        if self._is_refused or self._fault is not None or self.transport.is_closing():
            return
        self.active_at = self.loop.time()
        self._unset_keepalive_if_required()
        self._has_advanced = False
        try:
            self._parse(data)
            self._bytes_without_advance += len(data)
            if self._has_advanced:
                self._bytes_without_advance = 0
            elif self._bytes_without_advance > MOST_HEAD_BYTES:
                raise too_long()
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._note_fault(cause if isinstance(cause, Fault) else not_http())
        except Fault as fault:
            self._note_fault(fault)
        if self._is_at_work():
            self._note_work()
        else:
            self._start_head_timer()

    def on_message_begin(self) -> None:
        """Begin a request, unless the parser was restarted for the rest of one (see `_parse`)."""
        if self._is_body_resumed:
            return
        if len(self.pipeline) >= _MOST_AHEAD:
            ahead = f"more than {_MOST_AHEAD} requests were sent before the first was answered"
            raise Fault(HTTPStatus.TOO_MANY_REQUESTS, ahead)
        self._part = _Part.HEAD
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; drop trailers, which follow a body."""
        if self._part is _Part.HEAD:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Begin serving the request, or queue it behind earlier ones."""
        self._has_advanced = True
        if self._is_body_resumed:
            self._is_body_resumed = False
            return
        self._framing = framing_of(self.parser.get_http_version(), self.url, self.headers)
        super().on_headers_complete()
        self._part = _Part.BODY
        self.cycle.transport = JoinedWrites(self.transport, self.cycle)  # type: ignore[assignment]
        if not self.pipeline:
            self._served = self.cycle

    def on_body(self, body: bytes) -> None:
        self._has_advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """End the request, unless the parser takes its body for another protocol."""
        if self.parser.should_upgrade() and self._framing:
            return
        self._has_advanced = True
        self._part = _Part.NOTHING
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the rest of an unread body."""
        if self._served is not None:
            cast("JoinedWrites", self._served.transport).flush()
        if self._fault is not None and self._is_fault_next():
            self._respond_to_fault()
            return
        if self.pipeline:
            self._served = self.pipeline[-1][0]
        super().on_response_complete()
        self.active_at = self.loop.time()
        if self.transport.is_closing():
            return
        if self._is_at_work():
            self._note_work()
            return
        self._stop_waiting()
        self._port.waiting[self] = None
        if self._part is not _Part.NOTHING:
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._is_refused:
            self._port.lingering -= 1
        if self._served is not None and not self._served.response_complete:
            self._served.disconnected = True
            self._served.message_event.set()
        super().connection_lost(exc)

    def has_unread(self) -> bool:
        """Return whether data has arrived that the event loop has not read yet."""
        return is_readable(self.transport.get_extra_info("socket").fileno())

    def has_more_to_do(self) -> bool:
        """Return whether it is at work, about to be, or sending its last response."""
        return self.transport.is_closing() or self._is_at_work() or self.has_unread()

    def give_way(self) -> None:
        """Close a waiting connection at once; say why if its request has begun."""
        if self._is_at_work() and not self.cycle.response_started:
            most = f"{self._port.most} connections (--max-connections)"
            self._respond(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the body arrived too slowly while this server was at its limit of {most}",
            )
        self.connections.discard(self)
        self._stop_waiting()
        self.transport.close()

    def _parse(self, data: bytes) -> None:
        """Feed the parser, and restart it where it stops at requests with an `Upgrade` header.

        The restart replays the request's framing headers, so that its body is parsed as one.
        """
        while data:
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserUpgrade as offer:
                self._is_body_resumed = bool(self._framing)
                data = self._framing + data[offer.args[0] :]
            else:
                return

    def _note_fault(self, fault: Fault) -> None:
        """Remember the fault, and answer it in turn: after the good requests before it."""
        self._fault = fault
        if not self._is_at_work() or (self._part is _Part.BODY and not self.pipeline):
            self._respond_to_fault()

    def _is_fault_next(self) -> bool:
        return not self.pipeline or (self._part is _Part.BODY and len(self.pipeline) == 1)

    def _respond_to_fault(self) -> None:
        is_answered = self._part is _Part.BODY and self.cycle.response_started
        if self._fault is not None and not is_answered and not self.transport.is_closing():
            self._respond(self._fault.status, self._fault.message)
        self.transport.close()

    def _should_upgrade(self) -> bool:
        return False

    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _note_work(self) -> None:
        self._stop_waiting()
        if self.cycle.more_body and not self.pipeline:  # waits for its body, from now on
            self._port.waiting[self] = None

    def _stop_waiting(self) -> None:
        self._port.waiting.pop(self, None)
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _start_head_timer(self) -> None:
        if self._head_timer is None and not self.transport.is_closing():
            timeout = self._port.head_timeout
            self._head_timer = self.loop.call_later(timeout, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        if self._part is _Part.HEAD:
            seconds = f"{self._port.head_timeout:g} s (--header-timeout)"
            self._respond(
                HTTPStatus.REQUEST_TIMEOUT, f"the request's head took more than {seconds}"
            )
        self.give_way()

    def _refuse_for_room(self) -> None:
        self.connections.discard(self)
        self._is_refused = True
        self._port.lingering += 1
        most = f"{self._port.most} connections (--max-connections)"
        self._respond(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"this server has reached its limit of {most}, and all are in use",
        )
        if self._port.lingering > self._port.most_lingering:
            self.transport.close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER, self.transport.close)

    def _respond(self, status: HTTPStatus, message: str) -> None:
        """Write a complete response outside of any request cycle."""
        body = json.dumps({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n"
        )
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            head += f"{RETRY_AFTER.title()}: {math.ceil(UNKNOWN)}\r\n"
        self.transport.write(head.encode() + b"\r\n" + body)


class JoinedWrites:
    """A transport for one cycle that writes a response's head together with its body.

    uvicorn uses two system calls for them. With one, each of 5,000 refusals over one connection
    costs 138 us of CPU instead of 162, and arrives after 175 us instead of 233 (medians of ten
    alternating runs each). Only the methods that uvicorn's cycles call are implemented.
    """

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        self._cycle = cycle
        self._head = b""
        self._is_head_written = False

    def write(self, data: bytes) -> None:
        """Write data, but hold the response's head back to join it with what follows."""
        if self._cycle.response_started and not self._is_head_written:
            self._is_head_written = True
            self._head = data
        elif self._head and len(data) <= _MOST_JOINED:
            head, self._head = self._head, b""
            self._transport.write(head + data)
        else:
            self.flush()
            self._transport.write(data)

    def flush(self) -> None:
        """Write a head that nothing followed."""
        if self._head:
            head, self._head = self._head, b""
            self._transport.write(head)

    def close(self) -> None:
        """Write what is held back, and close the transport."""
        self.flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return whether the transport is closed or about to be."""
        return self._transport.is_closing()


class Fault(Exception):
    """A request that is not served, nor is anything after it on the connection."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def not_http() -> Fault:
    """Return the fault for data that is not an HTTP request."""
    return Fault(HTTPStatus.BAD_REQUEST, "the request is not HTTP/1.1, or its target is not a path")


def too_long() -> Fault:
    """Return the fault for an endless head, or an endless line in a chunked body."""
    most = f"this server takes at most {MOST_HEAD_BYTES} bytes"
    return Fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head is too long: {most}")


def framing_of(version: str, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a minimal head with the request's framing headers; empty without a body.

    Raises Fault for a head that two readers may interpret differently (RFC 9112, sections 3.2 and
    6.1), and for one that is too long.
    """
    size, hosts, framing = len(url), 0, []
    for name, value in headers:
        size += len(name) + len(value) + _MARKS
        if name == b"host":
            hosts += 1
        elif name in _FRAMING:
            framing.append(name + b": " + value + b"\r\n")
            if name == b"transfer-encoding" and (value.lower(), version) != (b"chunked", "1.1"):
                raise Fault(
                    HTTPStatus.NOT_IMPLEMENTED, "the only Transfer-Encoding supported is chunked"
                )
    if size > MOST_HEAD_BYTES:
        raise too_long()
    if version not in _VERSIONS or hosts > 1 or (hosts == 0 and version == "1.1"):
        raise not_http()
    return b"POST * HTTP/1.1\r\n" + b"".join(framing) + b"\r\n" if framing else b""
