"""HTTP/1.1 connections, with limits on their number, time and size.

A connection is either at work, from the end of a request's head to the end of its response, or
waiting. A connection that waits too long for a request's head is closed. At the connection limit,
the one that has waited longest gives way to a new one. Requests that are sent before the first is
answered (pipelined) are answered in turn.

`http_parser` makes requests of what arrives; `http_request` is one of them, with its body and its
response.

Each request is one task, or none if its head is enough to refuse it, and no timer: a connection
keeps one for its head, and one that looks now and then whether it has been idle too long, or its
client has stopped reading.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from contextvars import copy_context
from http import HTTPStatus
from typing import cast

from mlserve.server.listen.drain import is_readable, outgoing_bytes
from mlserve.server.listen.http_connections import HttpConnections
from mlserve.server.listen.http_framing import Fault
from mlserve.server.listen.http_parser import Part, RequestParser
from mlserve.server.listen.http_request import HttpRequest, last_response
from mlserve.server.message import LINGER, address_of
from mlserve.server.peer import UNKNOWN_PEER, Peer

_KEEP_ALIVE = 75.0
"""Seconds that an idle connection is kept open: longer than clients keep theirs.

As long as that, a client may take nothing of an answer that is being sent.
"""
_READ_AT_ONCE = 128 * 2**10
"""Bytes read from a connection at once, in place of asyncio's 256 KiB (except with TLS)."""
_MOST_AHEAD = 16
"""Pipelined requests that a connection may queue before the answer to the first."""
_MOST_JOINED = 64 * 2**10
"""Bytes of a body above which joining it to the head costs more than a second write."""
_log = logging.getLogger(__name__)


class HttpConnection(asyncio.Protocol):
    """One HTTP/1.1 connection, held to the limits of its port.

    `active_at` is when it was opened, or last received or answered something, by the loop's clock.
    """

    def __init__(self, port: HttpConnections) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._parser = RequestParser(self)
        self._head_timer: asyncio.TimerHandle | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self._fault: Fault | None = None
        self._is_reading = True
        self._watched = -1
        """The descriptor under which its hanging up was watched for, once its reading paused."""
        self._drained: asyncio.Future[None] | None = None
        self._unsent = math.inf
        """The bytes that the client had still to take when `_on_idle` looked last."""
        self.is_full = False
        """Whether the client does not read fast enough."""
        self.active_at = 0.0
        self.address = ""
        """The client's IP address; empty over a UNIX socket."""
        self.peer = UNKNOWN_PEER
        self._queue: deque[HttpRequest] = deque()
        """Requests that wait for the answer to the one before them."""
        self._next: HttpRequest | None = None
        """The request that is begun once the data is parsed in which its head has arrived."""
        self._served: HttpRequest | None = None
        """The request being answered, or answered last."""
        self._last: HttpRequest | None = None
        """The request received last."""

    # Callbacks of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection; answer 503 if it exceeds the limit and all others are at work."""
        self._transport = cast("asyncio.Transport", transport)
        self.address = address_of(transport.get_extra_info("peername"))
        self.peer = Peer(transport.get_extra_info("socket"))
        transport.max_size = _READ_AT_ONCE  # type: ignore[attr-defined]
        self._port.open.add(self)
        self.active_at = self._loop.time()
        self._idle_timer = self._loop.call_later(_KEEP_ALIVE, self._on_idle)
        if len(self._port.open) > self._port.most and not self._port.close_longest_waiting():
            self._refuse_for_room()
            return
        self._port.waiting[self] = None
        self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        """Parse incoming data; after a refusal or fault, discard the rest."""
        if self._is_refused or self._fault is not None or self._transport.is_closing():
            return
        self.active_at = self._loop.time()
        fault = self._parser.take(data)
        following, self._next = self._next, None
        if following is not None:
            self._begin(following)
        if fault is not None:
            self._note_fault(fault)
        last = self._last
        if last is None or last.is_answered:
            self._wait_for_head()
            return
        if self._queue or last.is_ahead:
            self._pause_reading()
        self._note_work(last)

    def pause_writing(self) -> None:
        self.is_full = True

    def resume_writing(self) -> None:
        self.is_full = False
        self._unsent = math.inf
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def eof_received(self) -> None:
        """Take the end of what the client sends for its leaving, and close the connection.

        It might only have closed its own direction, and still read. But a proxy that passes on
        bytes makes the same of a client that has hung up, and of the two this is the usual one.
        """
        self._lose_all()

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.hangups.forget(self._watched)
        self._stop_waiting()
        self._port.open.discard(self)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._is_refused:
            self._port.lingering -= 1
        self._lose_all()
        self.resume_writing()
        # They refer to this connection: the cycles would last until the next collection.
        self._served = self._last = None
        self._parser.close()

    # Callbacks of the parser.

    def on_begin(self) -> None:
        """Refuse one request more than may wait for the answers before them."""
        if len(self._queue) >= _MOST_AHEAD:
            ahead = f"more than {_MOST_AHEAD} requests were sent before the first was answered"
            raise Fault(HTTPStatus.TOO_MANY_REQUESTS, ahead)

    def on_head(
        self,
        target: tuple[str, str, bytes],
        headers: list[tuple[bytes, bytes]],
        version: str,
        *,
        keeps_alive: bool,
    ) -> None:
        """Serve the request next, or queue it behind earlier ones."""
        keeps_alive = keeps_alive and not self._port.is_ending
        request = HttpRequest(self, target, headers, version, keeps_alive=keeps_alive)
        is_next = self._last is None or self._last.is_answered
        self._last = request
        if is_next:
            self._next = request
        else:
            self._queue.append(request)

    def on_body(self, body: bytes) -> None:
        """Give it to its request, unless that has been answered without."""
        if self._last is not None and not self._last.is_answered:
            self._last.take(body)

    def on_end(self) -> None:
        """End the body of the request, unless that has been answered without."""
        if self._last is not None and not self._last.is_answered:
            self._last.end_body()

    # Called by requests.

    def write(self, *parts: bytes) -> None:
        """Write these, in one system call if they are short."""
        transport = self._transport
        if transport.is_closing():
            return
        if sum(map(len, parts)) <= _MOST_JOINED:
            transport.write(b"".join(parts))
            return
        for part in parts:
            transport.write(part)

    async def drained(self) -> None:
        """Wait until the client has read enough, or has left."""
        while self.is_full:
            self._drained = self._loop.create_future()
            await self._drained

    def resume_reading(self) -> None:
        """Take more of what the client sends."""
        if not self._is_reading and not self._transport.is_closing():
            self._is_reading = True
            self._port.hangups.forget(self._watched)
            self._transport.resume_reading()

    def on_answered(self, request: HttpRequest) -> None:
        """Turn to the next request, or wait for it, or for the rest of an unread body."""
        request.is_answered = True
        if not request.keeps_alive:
            self._transport.close()
        if self._fault is not None and self._is_fault_next():
            self._respond_to_fault()
            return
        if self._transport.is_closing():
            return
        self.active_at = self._loop.time()
        self.resume_reading()
        if self._queue:
            following = self._queue.popleft()
            self._begin(following)
            if self._last is not None and self._is_at_work():  # or it has been refused by its head
                self._note_work(self._last)
            return
        self._stop_waiting()
        self._port.waiting[self] = None
        if self._parser.part is not Part.NOTHING:
            self._start_head_timer()

    # Called by the port.

    @property
    def is_sending(self) -> bool:
        """Whether a part of its answers is still to be sent."""
        return self._transport.get_write_buffer_size() > 0

    def has_unread(self) -> bool:
        """Return whether data has arrived that the event loop has not read yet."""
        return is_readable(self._descriptor())

    def has_more_to_do(self) -> bool:
        """Return whether it is at work, about to be, or sending its last response."""
        return self._transport.is_closing() or self._is_at_work() or self.has_unread()

    def shutdown(self) -> None:
        """Close the connection, or if it is at work after the response."""
        if self._last is None or self._last.is_answered:
            self._transport.close()
        else:
            self._last.keeps_alive = False

    def give_way(self) -> None:
        """Close a waiting connection at once; say why if its request has begun."""
        close = self._transport.abort if self.is_sending else self._transport.close
        if self._last is not None and self._is_at_work() and not self._last.has_begun:
            most = f"{self._port.most} connections (--max-connections)"
            self._respond(
                HTTPStatus.SERVICE_UNAVAILABLE,
                f"the body arrived too slowly while this server was at its limit of {most}",
            )
        self._port.open.discard(self)
        self._stop_waiting()
        close()

    def _descriptor(self) -> int:
        """Return the socket's file descriptor; -1 once it is closed."""
        return int(self._transport.get_extra_info("socket").fileno())

    def _begin(self, request: HttpRequest) -> None:
        self._served = request
        context = copy_context()
        try:
            rest = context.run(self._port.begin, request)
        except Exception:  # noqa: BLE001 - as where a task ends with one
            _log.exception("a request could not be answered")
            self._transport.close()
            return
        if rest is not None:
            task = self._loop.create_task(rest, context=context)
            self._port.tasks.add(task)
            task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._port.tasks.discard(task)
        if task.cancelled() or (error := task.exception()) is None:
            return
        _log.error("a request could not be answered", exc_info=error)
        self._transport.close()

    def _note_fault(self, fault: Fault) -> None:
        """Remember the fault, and answer it in turn: after the good requests before it."""
        self._fault = fault
        if not self._is_at_work() or (self._parser.part is Part.BODY and not self._queue):
            self._respond_to_fault()

    def _is_fault_next(self) -> bool:
        return not self._queue or (self._parser.part is Part.BODY and len(self._queue) == 1)

    def _respond_to_fault(self) -> None:
        last = self._last
        is_answered = self._parser.part is Part.BODY and last is not None and last.has_begun
        if self._fault is not None and not is_answered and not self._transport.is_closing():
            self._respond(self._fault.status, self._fault.message)
        self._transport.close()

    def _is_at_work(self) -> bool:
        return self._last is not None and not self._last.is_answered

    def _note_work(self, last: HttpRequest) -> None:
        self._stop_waiting()
        if last.more_body and not self._queue:  # waits for its body, from now on
            self._port.waiting[self] = None

    def _stop_waiting(self) -> None:
        self._port.waiting.pop(self, None)
        self._stop_head_timer()

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _pause_reading(self) -> None:
        if self._is_reading and not self._transport.is_closing():
            self._is_reading = False
            self._transport.pause_reading()
            self._watched = self._descriptor()
            self._port.hangups.watch(self._watched, self._on_hangup)

    def _on_hangup(self) -> None:
        """Take note that the client has hung up, behind data that is still to be read."""
        self._lose_all()
        self._transport.close()

    def _lose_all(self) -> None:
        """End the requests that are not answered yet, as no answer can reach the client."""
        self._queue.clear()
        self._next = None
        for request in (self._served, self._last):
            if request is not None and not request.is_answered:
                request.lose()

    def _wait_for_head(self) -> None:
        """Time what has begun or goes on; between two requests, the connection is just idle."""
        if self._parser.part is Part.NOTHING and self._parser.has_advanced:
            self._stop_head_timer()
        else:
            self._start_head_timer()

    def _start_head_timer(self) -> None:
        if self._head_timer is None and not self._transport.is_closing():
            timeout = self._port.head_timeout
            self._head_timer = self._loop.call_later(timeout, self._on_head_timeout)

    def _on_head_timeout(self) -> None:
        if self._parser.part is Part.HEAD:
            seconds = f"{self._port.head_timeout:g} s (--header-timeout)"
            self._respond(
                HTTPStatus.REQUEST_TIMEOUT, f"the request's head took more than {seconds}"
            )
        self.give_way()

    def _on_idle(self) -> None:
        """Close the connection if it has been idle for long; otherwise look again when it may.

        Nothing is added to what is to be sent while that is much, or the connection closes: if it
        is no less than when this looked last, the client does not read.
        """
        left = self.active_at + _KEEP_ALIVE - self._loop.time()
        if self.is_full or self._transport.is_closing():
            unsent = self._transport.get_write_buffer_size() + outgoing_bytes(self._descriptor())
            if unsent >= self._unsent:
                self._transport.abort()
                return
            self._unsent, left = unsent, _KEEP_ALIVE
        elif self._is_at_work() or self._parser.part is not Part.NOTHING:
            left = _KEEP_ALIVE
        elif left <= 0:
            self._transport.close()
            left = _KEEP_ALIVE
        self._idle_timer = self._loop.call_later(left, self._on_idle)

    def _refuse_for_room(self) -> None:
        self._port.open.discard(self)
        self._is_refused = True
        self._port.lingering += 1
        most = f"{self._port.most} connections (--max-connections)"
        self._respond(
            HTTPStatus.SERVICE_UNAVAILABLE,
            f"this server has reached its limit of {most}, and all are in use",
        )
        if self._port.lingering > self._port.most_lingering:
            self._transport.close()
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(LINGER, self._transport.close)

    def _respond(self, status: HTTPStatus, message: str) -> None:
        """Write a complete response outside of any request's turn."""
        self._transport.write(last_response(status, message))
