"""The connections of the HTTP port: how many there may be, and how long they may say nothing.

uvicorn has no limit of time for a request's head. Here a connection is either at work, from the end
of a request to the end of its response, or it waits. One that waits too long for a request's head
is closed; so is the one that has waited longest when a new one comes and no more are allowed.
"""

from __future__ import annotations

import asyncio
import json
import logging
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol  # noqa: TID253

from mlserve.server.last_connections import is_readable

_QUIET = logging.getLogger(f"{__name__}.uvicorn")
_QUIET.setLevel(logging.ERROR)  # what strangers send is no warning; what fails in us is an error
_LINGER = 1.0
"""Seconds in which a refused client may read why: closed at once, it might see a reset only."""
_MOST_LINGERING = 100


class HttpConnections:
    """What the connections of one port share: the limits, and who waits, the longest first.

    `most` is the number of connections, `head_timeout` the seconds for the head of a request.
    """

    def __init__(self, most: int, head_timeout: float) -> None:
        self.most = most
        self.head_timeout = head_timeout
        self.waiting: dict[HttpConnection, None] = {}
        self.lingering = 0

    def close_longest_waiting(self) -> bool:
        """Whether a connection that does no work, and has none coming, was closed for room."""
        for connection in self.waiting:
            if not connection.has_unread():
                connection.give_way()
                return True
        return False


class HttpConnection(H11Protocol):
    """One HTTP/1.1 connection, as uvicorn makes it, that keeps to the limits of its port.

    `active_at` is when it was made, or last heard or answered something, by the loop's clock.
    """

    def __init__(self, *args: Any, port: HttpConnections, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = _QUIET
        self._port = port
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_refused = False
        self.active_at = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Takes the connection, or answers 503 when all that may be are at work."""
        super().connection_made(transport)
        self.active_at = self.loop.time()
        if len(self.connections) > self._port.most and not self._port.close_longest_waiting():
            self._refuse_for_room()
            return
        self._port.waiting[self] = None
        self._start_head_timer()

    def data_received(self, data: bytes) -> None:
        """Takes what came in; a refused connection is only drained."""
        if self._is_refused:
            return
        self.active_at = self.loop.time()
        super().data_received(data)
        if self._is_at_work():
            self._stop_waiting()
            if self.cycle.more_body:  # it waits for its body, since just now
                self._port.waiting[self] = None
        else:
            self._start_head_timer()

    def on_response_complete(self) -> None:
        """Waits for the next request, or for the rest of a body that nobody reads."""
        super().on_response_complete()
        self.active_at = self.loop.time()
        if self.transport.is_closing() or self._is_at_work():
            return
        self._stop_waiting()
        self._port.waiting[self] = None
        if self.conn.their_state is h11.SEND_BODY:
            self._start_head_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forgets the connection."""
        self._stop_waiting()
        if self._is_refused:
            self._port.lingering -= 1
        super().connection_lost(exc)

    def has_unread(self) -> bool:
        """Whether something has come in that the event loop has not got to yet."""
        return is_readable(self.transport.get_extra_info("socket").fileno())

    def give_way(self) -> None:
        """Closes a waiting connection at once; one whose request has begun is told why."""
        if self._is_at_work() and not self.cycle.response_started:
            most = f"{self._port.most} connections (--max-connections)"
            self._say(HTTPStatus.SERVICE_UNAVAILABLE, f"the body came too slowly for {most}")
        self.connections.discard(self)
        self._stop_waiting()
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP/1.1, and closes."""
        self._say(HTTPStatus.BAD_REQUEST, "the request is not HTTP/1.1, or its head is too long")
        self.transport.close()

    def _should_upgrade(self) -> bool:
        return False

    def _is_at_work(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

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
        if self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]:  # a head has begun
            seconds = f"{self._port.head_timeout:g} s (--header-timeout)"
            self._say(HTTPStatus.REQUEST_TIMEOUT, f"the request's head took more than {seconds}")
        self.give_way()

    def _refuse_for_room(self) -> None:
        self.connections.discard(self)
        self._is_refused = True
        self._port.lingering += 1
        most = f"{self._port.most} connections (--max-connections)"
        self._say(HTTPStatus.SERVICE_UNAVAILABLE, f"this server has its {most}, all at work")
        if self._port.lingering > _MOST_LINGERING:
            self.transport.close()
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self.loop.call_later(_LINGER, self.transport.close)

    def _say(self, status: HTTPStatus, message: str) -> None:
        """Writes a whole response without a request."""
        body = json.dumps({"error": message}).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n"
        )
        if status is HTTPStatus.SERVICE_UNAVAILABLE:
            head += "Retry-After: 1\r\n"
        self.transport.write(head.encode() + b"\r\n" + body)
