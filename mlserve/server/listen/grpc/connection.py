"""One HTTP/2 connection of the gRPC port: what its frames mean (RFC 9113).

What is not as it should be ends the connection with a GOAWAY that says why. A flood of frames that
ask for nothing does so, too.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, cast

from mlserve.server.errors import as_known_error, error_text
from mlserve.server.listen.drain import is_readable
from mlserve.server.listen.grpc import frames, headers
from mlserve.server.listen.grpc.call import NO_CONTEXT, GrpcCall
from mlserve.server.listen.grpc.frames import ConnectionFault, FrameReader, Patience
from mlserve.server.listen.grpc.headers import (
    MOST_METADATA,
    GrpcStatus,
    Head,
    HeaderReader,
    Malformed,
    read_head,
)
from mlserve.server.listen.grpc.outbox import Outbox
from mlserve.wire.errors import grpc_status

if TYPE_CHECKING:
    from mlserve.server.listen.grpc.connections import GrpcConnections

MOST_STREAMS = 1024
"""Calls on one connection. Refusing is the queue's business: more would wait at the client."""
_WINDOW = 8 * 2**20
"""Bytes on their way on one connection. What arrives is taken or dropped at once."""
_MOST_DROPPED = 2 * MOST_STREAMS
_SMALL = 16
"""Bytes of a DATA frame below which it is one of a flood, if there are many."""
_LINGER = 1.0
"""Seconds for a client to hang up after a GOAWAY: hung up on, it might see a reset only."""
_READ_OUT = 20.0
"""Seconds for a client to read the last answers."""
_ALIVE, _LAST_CALLS = b"mlserve?", b"mlserve!"
"""What the server's PINGs carry."""


class GrpcConnection(asyncio.Protocol):
    """One connection. It is at work while a method runs for it; else it may have to give way.

    `heard_at` is when the last byte came in, by the loop's clock. `is_extra` says that it came
    when all places were taken: then it may call methods of small messages only, as the health's.
    """

    def __init__(self, port: GrpcConnections) -> None:
        self._port = port
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self.is_extra = False
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader(self)
        self._patience = Patience(self._loop.time)
        self._headers = HeaderReader(self._patience)
        self._calls: dict[int, GrpcCall] = {}
        self._dropped: dict[int, None] = {}
        """Streams that have ended here before the caller knows."""
        self._working = 0
        self._last_stream = 0
        self._received = 0
        self._has_settings = False
        self._timer: asyncio.TimerHandle | None = None
        self._asked_at = 0.0
        self._is_draining = False
        self._is_told_last = False
        self._is_closing = False
        self._read_out = _READ_OUT

    # What asyncio tells.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets the client, unless there is no place for it or its TLS speaks no HTTP/2."""
        self._transport = cast("asyncio.Transport", transport)
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self._is_closing = True
            # It has no place, so it must not last until the client says goodbye as well. The last
            # words of the handshake leave first.
            self._loop.call_soon(self._transport.abort)
            return
        self._transport.set_write_buffer_limits(2**18)
        self._outbox = Outbox(
            self._transport, self._port.memory, self._patience, self._on_sent, self._reset
        )
        self._outbox.write(
            frames.settings(MOST_STREAMS, MOST_METADATA)
            + frames.window_update(0, _WINDOW - frames.DEFAULT_WINDOW)
        )
        self._start_timer()
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
        self._is_closing = True
        self._stop_timer()
        for call in list(self._calls.values()):
            self._forget(call)
            call.abandon()
        self._port.remove(self, is_lost=True)

    def pause_writing(self) -> None:
        """The client does not read as fast as it is written to."""
        self._outbox.pause()

    def resume_writing(self) -> None:
        """The client has read."""
        self._outbox.resume()
        self._port.note(self)

    # What the port asks for.

    @property
    def is_at_work(self) -> bool:
        """Whether a method runs for it."""
        return self._working > 0

    def has_unread(self) -> bool:
        """Whether something has come in that the event loop has not got to yet."""
        assert self._transport is not None
        return self._reader.has_more or is_readable(
            self._transport.get_extra_info("socket").fileno()
        )

    def give_way(self) -> None:
        """Closes it in favour of another."""
        for call in list(self._calls.values()):
            call.cut_short("RESOURCE_EXHAUSTED", f"the connection gives way: {self._port.full}")
        self._close_with(frames.NO_ERROR, f"idle: {self._port.full}")

    def look_after(self, silence: float, patience: float) -> None:
        """Asks for a sign of life after that many seconds of silence, and closes without one."""
        now = self._loop.time()
        if self._is_closing or now - self.heard_at < silence:
            return
        if self._asked_at < self.heard_at:
            self._asked_at = now
            self._ping(_ALIVE)
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
        if not self._has_settings and not self.has_unread():
            self._close_with(frames.NO_ERROR, "the server is shutting down")
            return
        self._outbox.write(
            frames.goaway(frames.LARGEST_WINDOW, frames.NO_ERROR, "the server is shutting down")
        )
        self._ping(_LAST_CALLS)
        self._loop.call_later(_LINGER, self._tell_last)

    def cut_short(self, code: str, text: str) -> None:
        """Ends each of its calls with that status, and closes it."""
        for call in list(self._calls.values()):
            call.cut_short(code, text)
        self._close_with(frames.NO_ERROR, text)

    def abort(self) -> None:
        """Closes it at once."""
        if self._transport is not None:
            self._transport.abort()

    # What calls ask for.

    def send(
        self, call: GrpcCall, head: bytes | None, message: bytes | None, tail: bytes | None
    ) -> None:
        """What `Link.send` does."""
        if call.stream in self._calls:
            self._outbox.send(call, head, message, tail)

    async def sent(self, call: GrpcCall) -> None:
        """What `Link.sent` does."""
        await self._outbox.sent(call)

    def grant(self, call: GrpcCall, size: int) -> None:
        """What `Link.grant` does."""
        if call.stream in self._calls and not call.has_ended:
            call.window += size
            self._outbox.write(frames.window_update(call.stream, size))

    def note_work(self, call: GrpcCall, *, has_begun: bool) -> None:
        """What `Link.note_work` does."""
        self._working += 1 if has_begun else -1
        self._port.note(self)

    # What the frames say.

    def on_data(self, stream: int, data: memoryview, counted: int, *, ends: bool) -> None:
        """Gives it to its call; what belongs to none is dropped."""
        if self._is_closing:
            return
        self._check_order()
        if not stream:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "DATA on no stream")
        size = len(data)
        if size < _SMALL and not ends:
            self._patience.spend()
        elif size >= 1024:  # noqa: PLR2004 - a KiB
            self._patience.earn(1)
        self._take_from_window(counted)
        call = self._calls.get(stream)
        if call is None:
            self._note_dropped(stream, ends=ends)
            return
        call.window -= counted
        if call.window < 0:
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "more data than the window allows")
        if call.has_ended:
            raise ConnectionFault(frames.STREAM_CLOSED, f"DATA after the end of stream {stream}")
        call.feed(data)
        if ends:
            call.end_of_messages()
        self._port.note(self)

    def on_skipped(self, size: int) -> None:
        """A frame of an unknown kind, which is ignored (section 4.1)."""
        self._check_order()
        self._patience.spend(1 + size / 1024)

    def on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Any frame but DATA."""
        if self._is_closing:
            return
        if not self._has_settings and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind in (frames.HEADERS, frames.CONTINUATION):
            self._on_headers(flags, stream, payload, kind)
        else:
            self._check_order(is_settings=kind == frames.SETTINGS)
            self._control(kind, flags, stream, payload)

    def _control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if (kind in _OF_THE_CONNECTION) != (stream == 0) and kind != frames.WINDOW_UPDATE:
            raise ConnectionFault(
                frames.PROTOCOL_ERROR, f"a frame of type {kind} on a wrong stream"
            )
        self._patience.spend()
        if kind == frames.WINDOW_UPDATE:
            self._widen(stream, frames.number(payload))
        elif kind == frames.PING:
            self._on_ping(flags, payload)
        elif kind == frames.SETTINGS:
            self._on_settings(flags, payload)
        elif kind == frames.RST_STREAM:
            self._on_reset(stream)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a client must not push")

    def _check_order(self, *, is_settings: bool = False) -> None:
        if self._headers.is_within or not (self._has_settings or is_settings):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a frame where another one is due")

    def _on_headers(self, flags: int, stream: int, payload: bytes, kind: int) -> None:
        whole = self._headers.take(kind, flags, stream, payload)
        if whole is None:
            self._start_timer()
            return
        self._stop_timer()
        fields, ends = whole
        if stream > self._last_stream:
            self._open(stream, fields, ends=ends)
            return
        call = self._calls.get(stream)
        self._patience.spend()
        if call is None and stream not in self._dropped:
            raise ConnectionFault(frames.STREAM_CLOSED, f"HEADERS on stream {stream}, which ended")
        if (
            call is None
            or not ends
            or call.has_ended
            or any(name[:1] == b":" for name, _ in fields)
        ):
            self._note_dropped(stream, ends=ends)
            if call is not None:
                self._abandon(call, frames.PROTOCOL_ERROR)
            return
        call.end_of_messages()  # with trailers, which say nothing in gRPC

    def _open(self, stream: int, fields: list[tuple[bytes, bytes]], *, ends: bool) -> None:
        """Begins a call, or refuses it before a byte of its data is taken."""
        if self._is_told_last:
            return  # the client knows that it was not looked at
        self._last_stream = stream
        if len(self._calls) >= MOST_STREAMS:
            self._patience.spend()
            self._outbox.write(frames.rst_stream(stream, frames.REFUSED_STREAM))
            self._note_dropped(stream, ends=ends)
            return
        try:
            head = read_head(fields)
            refusal = None
        except Malformed as fault:
            self._refuse_malformed(stream, fault, ends=ends)
            return
        except GrpcStatus as status:
            head, refusal = _NOBODY, status
        call = GrpcCall(stream, head, self)
        self._calls[stream] = call
        call.has_ended = ends
        try:
            if refusal is not None:
                raise refusal
            contextvars.copy_context().run(self._port.begin, self, call)
        except GrpcStatus as status:
            call.end(status.code, status.text, status.trailing)
        except Exception as error:  # noqa: BLE001 - the boundary: as_known_error logs what is new
            known = as_known_error(error)
            call.end(grpc_status(known), error_text(known))
        self._port.note(self)

    def _refuse_malformed(self, stream: int, fault: Malformed, *, ends: bool) -> None:
        self._patience.spend()
        if fault.http_status is None:
            self._outbox.write(frames.rst_stream(stream, frames.PROTOCOL_ERROR))
        else:
            block = headers.EMPTY_TABLE + headers.http_only(fault.http_status)
            self._outbox.write(frames.headers(stream, block, ends=True))
            if not ends:
                self._outbox.write(frames.rst_stream(stream, frames.NO_ERROR))
        self._note_dropped(stream, ends=ends)

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(frames.FRAME_SIZE_ERROR, "an acknowledgement with settings")
            return
        if not self._has_settings:
            self._has_settings = True
            self._stop_timer()
        for name, value in frames.read_settings(payload):
            self._patience.spend(0.1)
            if name == frames.SETTING_INITIAL_WINDOW:
                self._outbox.stream_window = value
            elif name == frames.SETTING_MAX_FRAME:
                self._outbox.max_frame = value
        most = frames.LARGEST_WINDOW - self._outbox.stream_window
        if any(call.credit > most for call in self._calls.values()):
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window of 2^31 or more")
        self._outbox.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self._outbox.pump()

    def _on_ping(self, flags: int, payload: bytes) -> None:
        if not flags & frames.ACK:
            self._outbox.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _LAST_CALLS:
            self._tell_last()

    def _on_reset(self, stream: int) -> None:
        if stream > self._last_stream and not self._is_told_last:
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"RST_STREAM on stream {stream}, not open")
        call = self._calls.get(stream)
        self._dropped.pop(stream, None)
        if call is not None:
            self._forget(call)
            call.abandon()
            self._close_if_done()

    def _widen(self, stream: int, size: int) -> None:
        if not size:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "WINDOW_UPDATE by zero")
        outbox = self._outbox
        if not stream:
            outbox.window += size
            if outbox.window > frames.LARGEST_WINDOW:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window of 2^31 or more")
            if outbox.pump():
                self._port.note(self)
            return
        if stream > self._last_stream and not self._is_told_last:
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"WINDOW_UPDATE on stream {stream}")
        call = self._calls.get(stream)
        if call is None:
            return
        call.credit += size
        if outbox.stream_window + call.credit > frames.LARGEST_WINDOW:
            self._abandon(call, frames.FLOW_CONTROL_ERROR)
        elif outbox.pump_one(call):
            self._port.note(self)

    def _take_from_window(self, counted: int) -> None:
        """What has arrived is taken or dropped at once, so the window is opened again."""
        self._received += counted
        if self._received >= _WINDOW // 2:
            self._outbox.write(frames.window_update(0, self._received))
            self._received = 0

    # How streams and the connection end.

    def _on_sent(self, call: GrpcCall) -> None:
        """The last frame of an answer has been written."""
        if not call.has_ended:
            self._outbox.write(frames.rst_stream(call.stream, frames.NO_ERROR))
            self._note_dropped(call.stream, ends=False)
        self._calls.pop(call.stream, None)
        self._patience.earn(4)
        self._close_if_done()

    def _reset(self, call: GrpcCall) -> None:
        """Nobody reads the answer of that call."""
        self._abandon(call, frames.ENHANCE_YOUR_CALM)

    def _abandon(self, call: GrpcCall, code: int) -> None:
        if call.stream in self._calls:
            self._outbox.write(frames.rst_stream(call.stream, code))
            self._note_dropped(call.stream, ends=call.has_ended)
            self._forget(call)
            call.abandon()
            self._close_if_done()

    def _forget(self, call: GrpcCall) -> None:
        self._calls.pop(call.stream, None)
        self._outbox.drop(call)

    def _note_dropped(self, stream: int, *, ends: bool) -> None:
        """What still comes on that stream is dropped without a word."""
        if stream > self._last_stream and not self._is_told_last:
            raise ConnectionFault(frames.PROTOCOL_ERROR, f"DATA on stream {stream}, not open")
        if ends:
            self._dropped.pop(stream, None)
            return
        self._dropped[stream] = None
        if len(self._dropped) > _MOST_DROPPED:
            del self._dropped[next(iter(self._dropped))]

    def _tell_last(self) -> None:
        if self._is_told_last or self._is_closing:
            return
        self._is_told_last = True
        self._outbox.write(frames.goaway(self._last_stream, frames.NO_ERROR))
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_told_last and not self._calls and not self._is_closing:
            self._hang_up()

    def _close_with(self, code: int, why: str) -> None:
        """Ends all calls, says why, and hangs up."""
        if self._is_closing:
            return
        self._outbox.write(frames.goaway(self._last_stream, code, why))
        for call in list(self._calls.values()):
            self._forget(call)
            call.abandon()
        if code != frames.NO_ERROR:
            self._read_out = 0.0
        self._hang_up()

    def _hang_up(self) -> None:
        """Lets the client read the last words, for it to hang up, and does it otherwise."""
        self._is_closing = True
        self._stop_timer()
        self._outbox.close()
        self._port.remove(self)
        transport = self._transport
        assert transport is not None
        if self._port.may_linger(self):
            if transport.can_write_eof():
                transport.write_eof()
            self._timer = self._loop.call_later(_LINGER, self.end, context=NO_CONTEXT)
        else:
            self.end()

    def end(self) -> None:
        """Closes the transport; what was written still leaves, if the client reads it soon."""
        assert self._transport is not None
        self._transport.close()
        self._stop_timer()
        self._timer = self._loop.call_later(self._read_out, self.abort, context=NO_CONTEXT)

    def _ping(self, payload: bytes) -> None:
        self._outbox.write(frames.frame(frames.PING, 0, 0, payload))

    def _start_timer(self) -> None:
        """Gives the client its time for a greeting, or for the rest of a header block."""
        if self._timer is None:
            self._timer = self._loop.call_later(self._port.head_timeout, self._on_timeout)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self) -> None:
        self._close_with(frames.NO_ERROR, "the client took too long (--header-timeout)")


_NOBODY = Head("", None, b"identity", ())
_OF_THE_CONNECTION = (frames.SETTINGS, frames.PING, frames.GOAWAY)
