"""One connection of the gRPC port: how it begins, lives and ends. `Streams` has what it carries."""

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
"""Seconds for a client to hang up after a GOAWAY: hung up on, it might see a reset only."""
_READ_OUT = 20.0
"""Seconds for a client to read the last answers."""
_ALIVE = b"mlserve?"
"""What the PING carries that asks for a sign of life."""
_SHUTTING_DOWN = "the server is shutting down"


class Port(Protocol):
    """What a connection needs of its port."""

    memory: BodyMemory
    head_timeout: float
    """Seconds for a greeting, or for a header block."""
    full: str
    """Why a connection gives way, for its client."""

    def begin(self, connection: GrpcConnection, call: GrpcCall) -> None:
        """Lets a call in by its headers alone. Raises GrpcStatus and MlserveError."""

    def add(self, connection: GrpcConnection) -> None:
        """Finds a place for it, if need be that of an idle one."""

    def note(self, connection: GrpcConnection) -> None:
        """Hears that it has done something, or that it begins or ends to be at work."""

    def remove(self, connection: GrpcConnection, *, is_lost: bool = False) -> None:
        """Gives its place to another."""

    def may_linger(self, connection: GrpcConnection) -> bool:
        """Whether one that is to end may wait for its client to hang up."""


class GrpcConnection(asyncio.Protocol):
    """One connection. It is at work while a method runs for it; else it may have to give way.

    `heard_at` is when the last byte came in, by the loop's clock. `is_extra` says that it came
    when all places were taken: then it may call methods of small messages only, as the health's.
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

    # What asyncio tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the client, unless its TLS speaks no HTTP/2."""
        self._transport = cast("asyncio.Transport", transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._is_closing = True
            # It has no place, so it must not last until the client says goodbye as well. The last
            # words of the handshake leave first.
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
        """Takes what came in."""
        if self._is_closing:
            return
        self.heard_at = self._loop.time()
        self._take(data)

    def _take(self, data: bytes = b"") -> None:
        """Takes some frames; for more, others have their turn first, and the client waits."""
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

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends every call; nobody would hear their answers."""
        if not self._is_closing:  # else they have ended
            self._is_closing = True
            self._streams.abandon_all()
            self._streams.close()
        self.stop_timer()
        self._port.remove(self, is_lost=True)

    def pause_writing(self) -> None:
        """Holds answers back: the client does not read as fast as it is written to."""
        self._outbox.pause()

    def resume_writing(self) -> None:
        """Sends on: the client has read."""
        self._outbox.resume()
        self._port.note(self)

    # What the port asks for.

    @property
    def is_at_work(self) -> bool:
        """Whether a method runs for it."""
        return self._streams.are_at_work

    def has_unread(self) -> bool:
        """Whether something has come in that the event loop has not got to yet."""
        assert self._transport is not None
        return self._reader.has_more or is_readable(
            self._transport.get_extra_info("socket").fileno()
        )

    def give_way(self) -> None:
        """Closes it in favour of another."""
        self._streams.cut_short(
            "RESOURCE_EXHAUSTED", f"the connection gives way: {self._port.full}"
        )
        self._close_with(frames.NO_ERROR, f"idle: {self._port.full}")

    def look_after(self, silence: float, patience: float) -> None:
        """Asks for a sign of life after that many seconds of silence, and closes without one."""
        now = self._loop.time()
        if self._is_closing or now - self.heard_at < silence:
            return
        if self._asked_at < self.heard_at:
            self._asked_at = now
            self._outbox.write(frames.frame(frames.PING, 0, 0, _ALIVE))
        elif now - self._asked_at >= patience:
            self.abort()

    def drain(self) -> None:
        """Lets its calls end, and closes it when none is left.

        The client is told first that calls must not begin any more, and only when it has heard that
        which was the last one that was seen: so none is lost that is on its way (section 6.8).
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
        """Ends each of its calls with that status, and closes it."""
        self._streams.cut_short(code, text)
        self._close_with(frames.NO_ERROR, text)

    def end(self) -> None:
        """Closes the transport; what was written still leaves, if the client reads it soon."""
        assert self._transport is not None
        self._transport.close()
        self.stop_timer()
        self._timer = self._loop.call_later(self._read_out, self.abort, context=NO_CONTEXT)

    def abort(self) -> None:
        """Closes it at once."""
        if self._transport is not None:
            self._transport.abort()

    # What the streams ask for.

    def begin(self, call: GrpcCall) -> None:
        """Lets a call in by its headers alone. Raises GrpcStatus and MlserveError."""
        self._port.begin(self, call)

    def note_use(self) -> None:
        """Tells the port that it is in use."""
        self._port.note(self)

    def start_timer(self) -> None:
        """Gives the client its time for a greeting, or for the rest of a header block."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._port.head_timeout, self._on_timeout)

    def stop_timer(self) -> None:
        """Takes note that it came, or is not waited for."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def close_if_done(self) -> None:
        """Closes it if no call is left and none may begin."""
        if self._streams.are_done and not self._is_closing:
            self._hang_up()

    # How it ends.

    def _on_timeout(self) -> None:
        self._close_with(frames.NO_ERROR, "the client took too long (--header-timeout)")

    def _close_with(self, code: int, why: str) -> None:
        """Ends all calls, says why, and hangs up."""
        if self._is_closing:
            return
        self._streams.end_with(code, why)
        if code != frames.NO_ERROR:
            self._read_out = 0.0
        self._hang_up()

    def _hang_up(self) -> None:
        """Lets the client read the last words, for it to hang up, and does it otherwise."""
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
