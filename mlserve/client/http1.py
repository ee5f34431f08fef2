"""One HTTP/1.1 connection: a request is written, and its answer read by callbacks of asyncio.

There is at most one request on it. A small request is one write; a large one is sent in pieces, as
fast as the server takes them, and meanwhile an answer is read: a server may refuse on the head.
"""

from __future__ import annotations

import asyncio
import os
import select
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import cast

from mlserve.client.http1_answer import AnswerError, AnswerReader, CutOff

SENDING, WAITING, RECEIVING = "sending", "waiting", "receiving"
"""What is done of a request."""
_AT_ONCE = 2**17
"""Bytes of a body that are written together with the head."""
_PIECE = 2**18
"""Bytes of a larger body that are written at a time."""
_READ = 2**16


def _tell_nobody(_stage: str) -> None:
    return None


class Lost(Exception):
    """The connection ended before the answer did; the message says how. It may be empty."""


class ClosedByUs(Lost):
    """The client was closed during the request."""


class Http1Connection(asyncio.Protocol):
    """A connection for one request at a time. `when_lost` is called once it is closed.

    `is_open`: a request may be sent. `is_closed`: the system has closed it.
    """

    def __init__(self) -> None:
        self.when_lost: Callable[[Http1Connection], None] | None = None
        self.is_open = False
        self.is_closed = False
        self.idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._readable = select.poll()
        self._reader: AnswerReader | None = None
        self._done: asyncio.Future[None] | None = None
        self._tell: Callable[[str], None] = _tell_nobody
        self._unsent = memoryview(b"")
        self._is_full = False
        self._end_of_it = "it closed the connection without an answer"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Those of uvloop are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._readable.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        self.is_open = True

    async def secure(self, context: ssl.SSLContext, host: str, seconds: float) -> None:
        """Begin TLS, within a tunnel. Raises OSError, and AnswerError if it came too early."""
        transport = self._transport
        assert transport is not None
        self._transport = await self._loop.start_tls(
            transport, self, context, server_hostname=host, ssl_handshake_timeout=seconds
        )

    async def ask(
        self,
        head: bytes,
        body: bytes,
        reader: AnswerReader,
        tell: Callable[[str], None] = _tell_nobody,
    ) -> None:
        """Send a request and return once `reader` has the answer; `tell` hears what is done.

        Raises Lost if the connection ends before, and AnswerError. After any error, and if the
        caller is cancelled, it is closed.
        """
        if not self.is_open:
            raise Lost(self._end_of_it)
        self._reader, self._tell = reader, tell
        self._done = self._loop.create_future()
        try:
            self._send(head, body)
            await self._done
        except BaseException:
            self.drop()
            raise
        finally:
            self._reader, self._done, self._tell = None, None, _tell_nobody
        if self._unsent or not reader.can_be_kept or self._has_unwritten():
            self.drop()

    def drop(self, why: Exception | None = None) -> None:
        """Close it without a word. A request on it raises `why`."""
        self.is_open = False
        self._unsent = memoryview(b"")
        if self._transport is not None:
            self._transport.abort()
        self._end(why or ClosedByUs("this client closed the connection"))

    def is_usable(self) -> bool:
        """Return whether a request can be sent: it is open, and the server has said nothing.

        The system is asked, because the loop may not have run since the server closed it.
        """
        return self.is_open and not self._readable.poll(0)

    def data_received(self, data: bytes) -> None:
        reader = self._reader
        if reader is None or self._done is None or self._done.done():
            self.drop()  # nobody asked
            return
        had_head = reader.status
        try:
            is_whole = reader.feed(data)
        except AnswerError as error:
            self.drop(error)
            return
        if is_whole:
            self._end(None)
        elif reader.status and not had_head:
            self._tell(RECEIVING)

    def eof_received(self) -> None:
        self.is_open = False
        if self._reader is not None:
            try:
                self._reader.end()
            except CutOff as error:
                self._end(Lost(str(error)))
            else:
                self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and self._reader is not None:
            self._take_the_rest()
        self.is_open, self.is_closed = False, True
        self._unsent = memoryview(b"")
        self._end_of_it = str(exc or "") or self._end_of_it
        self._end(Lost(self._end_of_it))
        if self.when_lost is not None:
            self.when_lost(self)

    def pause_writing(self) -> None:
        self._is_full = True

    def resume_writing(self) -> None:
        self._is_full = False
        self._send_more()

    def _send(self, head: bytes, body: bytes) -> None:
        assert self._transport is not None
        if len(body) <= _AT_ONCE:
            self._tell(WAITING)
            self._transport.write(head + body if body else head)
            return
        self._tell(SENDING)
        self._transport.write(head)
        self._unsent = memoryview(body)
        self._send_more()

    def _send_more(self) -> None:
        if not self._unsent:
            return
        assert self._transport is not None
        # After a failed write the transport takes the rest too, and logs a warning for each piece.
        while self._unsent and not (self._is_full or self._transport.is_closing()):
            piece, self._unsent = self._unsent[:_PIECE], self._unsent[_PIECE:]
            self._transport.write(piece)
        if not self._unsent and self._reader is not None and not self._reader.status:
            self._tell(WAITING)

    def _has_unwritten(self) -> bool:
        assert self._transport is not None
        return self._transport.get_write_buffer_size() > 0

    def _take_the_rest(self) -> None:
        """Read what the server had sent before a write failed: asyncio would throw it away.

        A server that refuses on the head may close before it has read the body, and then the next
        write meets a reset, although the refusal has come. With TLS it cannot be read.
        """
        assert self._transport is not None
        if self._transport.get_extra_info("sslcontext") is not None:
            return
        if not isinstance(self._loop, asyncio.SelectorEventLoop):
            return  # others may have closed the socket by now
        number = self._transport.get_extra_info("socket").fileno()
        with suppress(OSError):
            while number >= 0 and (data := os.read(number, _READ)):
                self.data_received(data)

    def _end(self, error: Exception | None) -> None:
        done = self._done
        if done is None or done.done():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
            done.exception()  # mark it as retrieved: the caller may be cancelled now
