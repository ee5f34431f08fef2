"""Apply the frames of one HTTP/2 connection to its streams (RFC 9113).

Each stream is a call. Protocol violations raise ConnectionFault, which ends the connection with a
GOAWAY that gives the reason; so does a flood of useless frames.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import Protocol

from mlserve.server.body_memory import BodyMemory
from mlserve.server.errors import as_known_error, error_text
from mlserve.server.listen.grpc import frames, headers
from mlserve.server.listen.grpc.call import GrpcCall
from mlserve.server.listen.grpc.frames import ConnectionFault, Patience
from mlserve.server.listen.grpc.headers import (
    MOST_KNOWN,
    MOST_METADATA,
    USUAL_BLOCK,
    Head,
    HeaderReader,
    Malformed,
    read_head,
)
from mlserve.server.listen.grpc.outbox import Outbox
from mlserve.server.listen.grpc.status import GrpcStatus
from mlserve.server.message import address_of
from mlserve.server.peer import Peer
from mlserve.wire.status import grpc_status

MOST_STREAMS = 1024
"""Most calls on one connection: high, because clients hold back the rest, unseen by the queue."""
_WINDOW = 8 * 2**20
"""Receive window of a connection in bytes. What arrives is consumed or dropped at once."""
_MOST_DROPPED = 2 * MOST_STREAMS
_SMALL = 16
"""Bytes of a DATA frame below which it counts as useless."""
_USEFUL = 2**10
"""Bytes of a DATA frame that make up for a useless frame."""
_LAST_CALLS = b"mlserve!"
"""The payload of the PING whose acknowledgement shows that the client has seen the GOAWAY."""
_OF_THE_CONNECTION = (frames.SETTINGS, frames.PING, frames.GOAWAY)


class Owner(Protocol):
    """The part of a connection that its streams use."""

    def begin(self, call: GrpcCall) -> None:
        """Admit a call by its headers alone. Raises GrpcStatus and MlserveError."""

    def note_use(self) -> None:
        """Note that data has moved, or that a method has started or ended."""

    def start_timer(self) -> None:
        """Start the client's time for the rest of a header block."""

    def stop_timer(self) -> None:
        """Stop that time, as the awaited frame has arrived."""

    def close_if_done(self) -> None:
        """Close the connection if no call is left and none may begin."""


class Streams:
    """The calls of one connection: a `frames.Receiver`, and each call's `Link`."""

    def __init__(self, connection: Owner, transport: asyncio.Transport, memory: BodyMemory) -> None:
        self._connection = connection
        self._address = address_of(transport.get_extra_info("peername"))
        self._peer = Peer(transport.get_extra_info("socket"))
        self._patience = Patience(asyncio.get_running_loop().time)
        self._headers = HeaderReader(self._patience)
        self.outbox = Outbox(transport, memory, self._patience, self._on_sent, self._reset)
        self.has_settings = False
        """Whether the client's first SETTINGS have arrived."""
        self._calls: dict[int, GrpcCall] = {}
        self._dropped: dict[int, None] = {}
        """Streams that have ended here, on which the caller may still send."""
        self._working = 0
        self._last_stream = 0
        self._received = 0
        self._heads: dict[int, tuple[headers.Fields, Head]] = {}
        """The headers of calls as read, by the identity of their fields, which are kept for it."""
        self._is_told_last = False
        self._is_closed = False

    @property
    def are_at_work(self) -> bool:
        """Whether a method is running for one of the calls."""
        return self._working > 0

    @property
    def are_done(self) -> bool:
        """Whether no call is left, and the client knows that none may begin."""
        return self._is_told_last and not self._calls

    # Called by the connection.

    def greet(self) -> None:
        """Send the server's SETTINGS, and widen the connection's window."""
        self.outbox.write(
            frames.settings(MOST_STREAMS, MOST_METADATA)
            + frames.window_update(0, _WINDOW - frames.DEFAULT_WINDOW)
        )

    def announce_end(self, why: str) -> None:
        """Tell the client to begin no more calls; its acknowledgement triggers `tell_last`."""
        self.outbox.write(frames.goaway(frames.LARGEST_WINDOW, frames.NO_ERROR, why))
        self.outbox.write(frames.frame(frames.PING, 0, 0, _LAST_CALLS))

    def tell_last(self) -> None:
        """Tell the client which call was the last one processed."""
        if self._is_told_last or self._is_closed:
            return
        self._is_told_last = True
        self.outbox.write(frames.goaway(self._last_stream, frames.NO_ERROR))
        self._connection.close_if_done()

    def cut_short(self, code: str, text: str) -> None:
        """End each call with that status."""
        for call in list(self._calls.values()):
            call.cut_short(code, text)

    def abandon_all(self) -> None:
        """End each call without a status."""
        for call in list(self._calls.values()):
            self._forget(call)
            call.abandon()

    def end_with(self, code: int, why: str) -> None:
        """Send a GOAWAY with the reason, and abandon the calls."""
        self.outbox.write(frames.goaway(self._last_stream, code, why))
        self.abandon_all()

    def close(self) -> None:
        """Stop processing and sending."""
        self._is_closed = True
        self.outbox.close()

    # Called by calls: see `Link`.

    def send(
        self, call: GrpcCall, head: bytes | None, message: bytes | None, tail: bytes | None
    ) -> None:
        if call.stream in self._calls:
            self.outbox.send(call, head, message, tail)

    async def sent(self, call: GrpcCall) -> None:
        await self.outbox.sent(call)

    def grant(self, call: GrpcCall, size: int) -> None:
        if call.stream in self._calls and not call.has_ended:
            call.window += size
            self.outbox.write(frames.window_update(call.stream, size))

    def note_work(self, call: GrpcCall, *, has_begun: bool) -> None:
        self._working += 1 if has_begun else -1
        self._connection.note_use()

    # Called with frames: see `Receiver`.

    def on_data(self, stream: int, data: memoryview, counted: int, *, ends: bool) -> None:
        """Pass the data to its call; drop data that belongs to none."""
        if self._is_closed:
            return
        self._check_order()
        if not stream:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "DATA on stream 0")
        size = len(data)
        if size < _SMALL and not ends:
            self._patience.spend()
        elif size >= _USEFUL:
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
        self._connection.note_use()

    def on_skipped(self, size: int) -> None:
        """Ignore a frame of an unknown kind (section 4.1)."""
        self._check_order()
        self._patience.spend(1 + size / 1024)

    def on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Process any frame but DATA."""
        if self._is_closed:
            return
        if not self.has_settings and (kind != frames.SETTINGS or flags & frames.ACK):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if kind in (frames.HEADERS, frames.CONTINUATION):
            self._on_headers(flags, stream, payload, kind)
        else:
            self._check_order(is_settings=kind == frames.SETTINGS)
            self._on_control(kind, flags, stream, payload)

    def _check_order(self, *, is_settings: bool = False) -> None:
        if self._headers.is_within or not (self.has_settings or is_settings):
            raise ConnectionFault(frames.PROTOCOL_ERROR, "a frame that is not allowed here")

    # Headers: a call begins, or its trailers end it.

    def _on_headers(self, flags: int, stream: int, payload: bytes, kind: int) -> None:
        whole = self._headers.take(kind, flags, stream, payload)
        if whole is None:
            self._connection.start_timer()
            return
        self._connection.stop_timer()
        fields, ends = whole
        if stream > self._last_stream:
            self._open(stream, fields, ends=ends)
        else:
            self._on_trailers(stream, fields, ends=ends)

    def _on_trailers(self, stream: int, fields: headers.Fields, *, ends: bool) -> None:
        """Take trailers as the end of the caller's data; in gRPC, their content has no meaning."""
        self._patience.spend()
        call = self._calls.get(stream)
        if call is None:
            if stream not in self._dropped:
                raise ConnectionFault(
                    frames.STREAM_CLOSED, f"HEADERS on stream {stream}, which has ended"
                )
            self._note_dropped(stream, ends=ends)
        elif not ends or call.has_ended or any(name[:1] == b":" for name, _ in fields):
            self._abandon(call, frames.PROTOCOL_ERROR)
        else:
            call.end_of_messages()

    def _open(self, stream: int, fields: headers.Fields, *, ends: bool) -> None:
        """Begin a call, or refuse it before any of its data is taken."""
        if self._is_told_last:
            return  # the GOAWAY has told the client that it is not processed
        self._last_stream = stream
        if len(self._calls) >= MOST_STREAMS:
            self._patience.spend()
            self.outbox.write(frames.rst_stream(stream, frames.REFUSED_STREAM))
            self._note_dropped(stream, ends=ends)
            return
        try:
            call = GrpcCall(stream, self._head(fields), self, self._address, self._peer)
            call.has_ended = ends
            self._begin(call)
        except Malformed as fault:
            self._refuse_malformed(stream, fault, ends=ends)
            return
        except GrpcStatus as status:
            self._refuse(stream, status, ends=ends)
        self._connection.note_use()

    def _head(self, fields: headers.Fields) -> Head:
        """Read a call's headers, or take those that its client has sent before."""
        known = self._heads.get(id(fields))
        if known is None:
            known = fields, read_head(fields)
            if known[1].size <= USUAL_BLOCK:  # no others are given twice
                if len(self._heads) >= MOST_KNOWN:
                    self._heads.clear()
                self._heads[id(fields)] = known
        return known[1]

    def _begin(self, call: GrpcCall) -> None:
        """Have the call admitted and begun. Raises GrpcStatus for one that is refused."""
        self._calls[call.stream] = call
        try:
            contextvars.copy_context().run(self._connection.begin, call)
        except Exception as error:
            del self._calls[call.stream]
            call.drop()
            if isinstance(error, GrpcStatus):
                raise
            failure = as_known_error(error)
            raise GrpcStatus(grpc_status(failure), error_text(failure)) from None

    def _refuse(self, stream: int, status: GrpcStatus, *, ends: bool) -> None:
        """End a stream with that status alone, and take no more of it."""
        block = headers.refusal(status.code, status.text, status.trailing)
        self.outbox.refuse(stream, block, resets=not ends)
        self._note_dropped(stream, ends=ends)
        self._patience.earn(4)

    def _refuse_malformed(self, stream: int, fault: Malformed, *, ends: bool) -> None:
        self._patience.spend()
        if fault.http_status is None:
            self.outbox.write(frames.rst_stream(stream, frames.PROTOCOL_ERROR))
        else:
            block = headers.EMPTY_TABLE + headers.http_only(fault.http_status)
            self.outbox.write(frames.headers(stream, block, ends=True))
            if not ends:
                self.outbox.write(frames.rst_stream(stream, frames.NO_ERROR))
        self._note_dropped(stream, ends=ends)

    # Control frames: settings, windows, resets.

    def _on_control(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if (kind in _OF_THE_CONNECTION) != (stream == 0) and kind != frames.WINDOW_UPDATE:
            raise ConnectionFault(
                frames.PROTOCOL_ERROR, f"a frame of type {kind} on the wrong stream"
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

    def _on_settings(self, flags: int, payload: bytes) -> None:
        if flags & frames.ACK:
            if payload:
                raise ConnectionFault(
                    frames.FRAME_SIZE_ERROR, "a SETTINGS acknowledgement with a payload"
                )
            return
        if not self.has_settings:
            self.has_settings = True
            self._connection.stop_timer()
        for name, value in frames.read_settings(payload):
            self._patience.spend(0.1)
            if name == frames.SETTING_INITIAL_WINDOW:
                self.outbox.stream_window = value
            elif name == frames.SETTING_MAX_FRAME:
                self.outbox.max_frame = value
        most = frames.LARGEST_WINDOW - self.outbox.stream_window
        if any(call.credit > most for call in self._calls.values()):
            raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window of 2^31 or more")
        self.outbox.write(frames.frame(frames.SETTINGS, frames.ACK, 0))
        self.outbox.pump()

    def _on_ping(self, flags: int, payload: bytes) -> None:
        if not flags & frames.ACK:
            self.outbox.write(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif payload == _LAST_CALLS:
            self.tell_last()

    def _on_reset(self, stream: int) -> None:
        self._require_opened(stream, "RST_STREAM")
        call = self._calls.get(stream)
        self._dropped.pop(stream, None)
        if call is not None:
            self._forget(call)
            call.abandon()
            self._connection.close_if_done()

    def _widen(self, stream: int, size: int) -> None:
        if not size:
            raise ConnectionFault(frames.PROTOCOL_ERROR, "WINDOW_UPDATE of zero")
        outbox = self.outbox
        if not stream:
            outbox.window += size
            if outbox.window > frames.LARGEST_WINDOW:
                raise ConnectionFault(frames.FLOW_CONTROL_ERROR, "a window of 2^31 or more")
            if outbox.pump():
                self._connection.note_use()
            return
        self._require_opened(stream, "WINDOW_UPDATE")
        call = self._calls.get(stream)
        if call is None:
            return
        call.credit += size
        if outbox.stream_window + call.credit > frames.LARGEST_WINDOW:
            self._abandon(call, frames.FLOW_CONTROL_ERROR)
        elif outbox.pump_one(call):
            self._connection.note_use()

    def _take_from_window(self, counted: int) -> None:
        """Reopen the connection's window, as arrived data is consumed or dropped at once."""
        self._received += counted
        if self._received >= _WINDOW // 2:
            self.outbox.write(frames.window_update(0, self._received))
            self._received = 0

    # How streams end.

    def _on_sent(self, call: GrpcCall) -> None:
        """Forget a call when the last frame of its answer has been written."""
        if not call.has_ended:
            self.outbox.write(frames.rst_stream(call.stream, frames.NO_ERROR))
            self._note_dropped(call.stream, ends=False)
        self._calls.pop(call.stream, None)
        self._patience.earn(4)
        self._connection.close_if_done()

    def _reset(self, call: GrpcCall) -> None:
        """Give up a call whose answer is not being read."""
        self._abandon(call, frames.ENHANCE_YOUR_CALM)

    def _abandon(self, call: GrpcCall, code: int) -> None:
        if call.stream in self._calls:
            self.outbox.write(frames.rst_stream(call.stream, code))
            self._note_dropped(call.stream, ends=call.has_ended)
            self._forget(call)
            call.abandon()
            self._connection.close_if_done()

    def _forget(self, call: GrpcCall) -> None:
        self._calls.pop(call.stream, None)
        self.outbox.drop(call)

    def _note_dropped(self, stream: int, *, ends: bool) -> None:
        """Drop silently whatever still arrives on that stream."""
        self._require_opened(stream, "DATA")
        if ends:
            self._dropped.pop(stream, None)
            return
        self._dropped[stream] = None
        if len(self._dropped) > _MOST_DROPPED:
            del self._dropped[next(iter(self._dropped))]

    def _require_opened(self, stream: int, kind: str) -> None:
        """Raise ConnectionFault for a frame on a stream that was never opened."""
        if stream > self._last_stream and not self._is_told_last:
            raise ConnectionFault(
                frames.PROTOCOL_ERROR, f"{kind} on stream {stream}, which is not open"
            )
