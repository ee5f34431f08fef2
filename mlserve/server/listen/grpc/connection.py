"""The life of one gRPC connection; `Streams` handles the calls on it."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

from mlserve.server.body_memory import BodyMemory
from mlserve.server.listen.drain import is_readable
from mlserve.server.listen.grpc import frames
from mlserve.server.listen.grpc.call import NO_CONTEXT, GrpcCall
from mlserve.server.listen.grpc.frames import ConnectionFault, FrameReader
from mlserve.server.listen.grpc.streams import Streams

_LINGER = 1.0
"""Seconds for a client to hang up after a GOAWAY: if the server did, it might see a reset."""
_READ_OUT = 20.0
"""Seconds for a client to read its last answers."""
_ALIVE = b"mlserve?"
"""The payload of the keepalive PING."""
_SHUTTING_DOWN = "the server is shutting down"


class Port(Protocol):
    """The part of a port that a connection uses."""

    memory: BodyMemory
    head_timeout: float
    """Seconds for the first SETTINGS, or for a header block."""
    full: str
    """The reason that a client is told when its connection gives way."""

    def begin(self, connection: GrpcConnection, call: GrpcCall) -> None:
        """Admit a call by its headers alone. Raises GrpcStatus and MlserveError."""

    def add(self, connection: GrpcConnection) -> None:
        """Find a place for the connection, closing an idle one if necessary."""

    def note(self, connection: GrpcConnection) -> None:
        """Note that the connection was used, or that it started or stopped being at work."""

    def remove(self, connection: GrpcConnection, *, is_lost: bool = False) -> None:
        """Free the connection's place."""

    def may_linger(self, connection: GrpcConnection) -> bool:
        """Return whether a closing connection may wait for its client to hang up."""


class GrpcConnection(asyncio.Protocol):
    """One connection; it may have to give way to others unless a method runs for it.

    `heard_at` is when the last byte arrived, by the loop's clock. `is_extra` means that it arrived
    when all places were taken: it may then only call methods of small messages, such as health.
    """

    def __init__(self, port: Port) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self.is_extra = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asked_at = 0.0
        self._is_draining = False
        self._is_closing = False
        self._read_out = _READ_OUT

    # Callbacks of asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the server's SETTINGS, unless TLS did not negotiate HTTP/2."""
        self._transport = cast("asyncio.Transport", transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._is_closing = True
            # It is not counted, so it must not wait for the client to close. `call_soon` lets the
            # end of the TLS handshake leave first.
            self._loop.call_soon(self._transport.abort)
            return
        self._transport.set_write_buffer_limits(2**18)
        self._streams = Streams(self, self._transport, self._port.memory)
        self._reader = FrameReader(self._streams)
        self._outbox = self._streams.outbox
        self._streams.greet()
        self.start_timer()
        self._port.add(self)

    def data_received(self, data: bytes) -> None:
        """Take incoming data."""
        if self._is_closing:
            return
        self.heard_at = self._loop.time()
        self._take(data)

    def _take(self, data: bytes = b"") -> None:
        """Process some frames; if there are more, pause reading and give others a turn first."""
        transport = self._transport
        assert transport is not None
        if not self._is_closing:
            try:
                self._reader.feed(data)
                self._outbox.check()
            except ConnectionFault as fault:
                self._close_with(fault.code, str(fault))
            self._outbox.flush()
        if self._reader.has_more and not self._is_closing:
            transport.pause_reading()
            self._loop.call_soon(self._take)
        else:
            transport.resume_reading()

    def eof_received(self) -> None:
        """End every call: a client of HTTP/2 that sends no more cannot take answers either."""
        if not self._is_closing:
            self._lose_all()
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End every call: their answers cannot be delivered."""
        self._lose_all()
        self.stop_timer()
        self._port.remove(self, is_lost=True)

    def _lose_all(self) -> None:
        if not self._is_closing:  # otherwise the calls have already ended
            self._is_closing = True
            self._streams.abandon_all()
            self._streams.close()

    def pause_writing(self) -> None:
        """Hold answers back, as the client does not read fast enough."""
        self._outbox.pause()

    def resume_writing(self) -> None:
        """Continue sending, as the client has read."""
        self._outbox.resume()
        self._port.note(self)

    # Called by the port.

    @property
    def is_at_work(self) -> bool:
        """Whether a method is running for it."""
        return self._streams.are_at_work

    @property
    def has_greeted(self) -> bool:
        """Whether its client has sent its first SETTINGS, or the connection is closing."""
        return self._is_closing or self._streams.has_settings

    def has_unread(self) -> bool:
        """Return whether data has arrived that has not been processed yet."""
        assert self._transport is not None
        return self._reader.has_more or is_readable(
            self._transport.get_extra_info("socket").fileno()
        )

    def give_way(self) -> None:
        """Close the connection in favour of another."""
        self._streams.cut_short(
            "RESOURCE_EXHAUSTED", f"closed to make room for another connection: {self._port.full}"
        )
        self._close_with(frames.NO_ERROR, f"closed while idle: {self._port.full}")

    def look_after(self, silence: float, patience: float) -> None:
        """Send a PING after `silence` seconds, and abort if nothing arrives within `patience`."""
        now = self._loop.time()
        if self._is_closing or now - self.heard_at < silence:
            return
        if self._asked_at < self.heard_at:
            self._asked_at = now
            self._outbox.write(frames.frame(frames.PING, 0, 0, _ALIVE))
        elif now - self._asked_at >= patience:
            self.abort()

    def drain(self) -> None:
        """Let its calls end, and close it when none is left.

        The client is first told to begin no more calls; once it has acknowledged that, it is told
        which call was the last one seen. So no call on its way is lost (RFC 9113, section 6.8).
        """
        if self._is_draining or self._is_closing:
            return
        self._is_draining = True
        if not self._streams.has_settings and not self.has_unread():
            self._close_with(frames.NO_ERROR, _SHUTTING_DOWN)
            return
        self._streams.announce_end(_SHUTTING_DOWN)
        self._loop.call_later(_LINGER, self._streams.tell_last)

    def cut_short(self, code: str, text: str) -> None:
        """End each of its calls with that status, and close it."""
        self._streams.cut_short(code, text)
        self._close_with(frames.NO_ERROR, text)

    def end(self) -> None:
        """Close the transport; written data still leaves if the client reads it soon."""
        assert self._transport is not None
        self._transport.close()
        self.stop_timer()
        self._timer = self._loop.call_later(self._read_out, self.abort, context=NO_CONTEXT)

    def abort(self) -> None:
        """Close the transport at once, dropping unsent data."""
        if self._transport is not None:
            self._transport.abort()

    # Called by the streams.

    def begin(self, call: GrpcCall) -> None:
        """Admit a call by its headers alone. Raises GrpcStatus and MlserveError."""
        self._port.begin(self, call)

    def note_use(self) -> None:
        """Tell the port that the connection is in use."""
        self._port.note(self)

    def start_timer(self) -> None:
        """Start the client's time for its first SETTINGS, or for the rest of a header block."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._port.head_timeout, self._on_timeout)

    def stop_timer(self) -> None:
        """Stop that time, as the data has arrived or is no longer expected."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close_if_done(self) -> None:
        """Close the connection if no call is left and none may begin."""
        if self._streams.are_done and not self._is_closing:
            self._hang_up()

    # Closing.

    def _on_timeout(self) -> None:
        self._close_with(frames.NO_ERROR, "the client took too long (--header-timeout)")

    def _close_with(self, code: int, why: str) -> None:
        """End all calls, send a GOAWAY with the reason, and hang up."""
        if self._is_closing:
            return
        self._streams.end_with(code, why)
        if code != frames.NO_ERROR:
            self._read_out = 0.0
        self._hang_up()

    def _hang_up(self) -> None:
        """Give the client time to read the rest and hang up; otherwise close the transport."""
        self._is_closing = True
        self.stop_timer()
        self._streams.close()
        self._port.remove(self)
        transport = self._transport
        assert transport is not None
        if self._port.may_linger(self):
            if transport.can_write_eof():
                transport.write_eof()
            self._timer = self._loop.call_later(_LINGER, self.end, context=NO_CONTEXT)
        else:
            self.end()
