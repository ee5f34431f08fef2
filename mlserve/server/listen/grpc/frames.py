"""Write and read HTTP/2 frames (RFC 9113, section 4).

`Patience` limits how many useless frames a client may send before its connection is closed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Protocol

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes that a client sends (section 3.4)."""
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY = range(8)
WINDOW_UPDATE, CONTINUATION = 8, 9
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, HAS_PRIORITY = 0x4, 0x8, 0x20

NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR = range(4)
STREAM_CLOSED, FRAME_SIZE_ERROR, REFUSED_STREAM, CANCEL = 5, 6, 7, 8
COMPRESSION_ERROR, ENHANCE_YOUR_CALM = 9, 11

SETTING_INITIAL_WINDOW, SETTING_MAX_FRAME = 4, 5
_SETTING_PUSH, _SETTING_MAX_STREAMS, _SETTING_MAX_HEADER_LIST = 2, 3, 6

DEFAULT_WINDOW = 65535
FIRST_WINDOW = 2**18
"""Bytes that a client may send of each call before it is granted more.

An image of more than `DEFAULT_WINDOW` would else wait for a WINDOW_UPDATE on its way.
"""
LARGEST_WINDOW = 2**31 - 1
DEFAULT_MAX_FRAME = 2**14
MAX_FRAME = 2**18
"""Largest frame that a client may send, in bytes."""
LARGEST_HEADERS = 2**15
"""Largest HEADERS frame in bytes: it is held back until it is complete."""
_AT_ONCE = 256
"""Frames processed before the event loop turns to something else: about 20 ms of calls."""

_MOST_USELESS = 2000.0
"""Useless frames that a connection may send at once."""
_USELESS_PER_SECOND = 100.0
_HEAD = struct.Struct(">HBBBI")
_NUMBER = struct.Struct(">I")
_SETTING = struct.Struct(">HI")
_STREAM_BITS = 0x7FFFFFFF
_LENGTHS = {
    HEADERS: range(MAX_FRAME + 1),
    PRIORITY: range(5, 6),
    RST_STREAM: range(4, 5),
    SETTINGS: range(0, 6 * 32 + 1, 6),
    PUSH_PROMISE: range(2**14 + 1),
    PING: range(8, 9),
    GOAWAY: range(8, 2**14 + 1),
    WINDOW_UPDATE: range(4, 5),
    CONTINUATION: range(MAX_FRAME + 1),
}


class ConnectionFault(Exception):
    """Ends a connection, with a GOAWAY of this code and text."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(why)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return _HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def data_head(size: int, stream: int, *, ends: bool = False) -> bytes:
    """Return the head of a DATA frame of `size` bytes."""
    return _HEAD.pack(size >> 8, size & 0xFF, DATA, END_STREAM if ends else 0, stream)


def headers(stream: int, block: bytes, *, ends: bool) -> bytes:
    """Return a header block as one HEADERS frame and, if need be, CONTINUATION frames."""
    first, rest = block[:DEFAULT_MAX_FRAME], block[DEFAULT_MAX_FRAME:]
    flags = END_STREAM if ends else 0
    if not rest:
        return frame(HEADERS, flags | END_HEADERS, stream, first)
    parts = [frame(HEADERS, flags, stream, first)]
    while rest:
        first, rest = rest[:DEFAULT_MAX_FRAME], rest[DEFAULT_MAX_FRAME:]
        parts.append(frame(CONTINUATION, 0 if rest else END_HEADERS, stream, first))
    return b"".join(parts)


def settings(max_streams: int, max_header_list: int) -> bytes:
    """Return the server's SETTINGS frame."""
    values = (
        (_SETTING_MAX_STREAMS, max_streams),
        (SETTING_INITIAL_WINDOW, FIRST_WINDOW),
        (SETTING_MAX_FRAME, MAX_FRAME),
        (_SETTING_MAX_HEADER_LIST, max_header_list),
    )
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*item) for item in values))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return the identifiers and values of a SETTINGS frame.

    Raises ConnectionFault for an invalid value (section 6.5.2).
    """
    values: list[tuple[int, int]] = list(_SETTING.iter_unpack(payload))
    for name, value in values:
        if name == SETTING_INITIAL_WINDOW and value > LARGEST_WINDOW:
            raise ConnectionFault(
                FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE of 2^31 or more"
            )
        if name == SETTING_MAX_FRAME and not DEFAULT_MAX_FRAME <= value < 2**24:
            raise ConnectionFault(PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE of {value}")
        if name == _SETTING_PUSH and value > 1:
            raise ConnectionFault(PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH of {value}")
    return values


def window_update(stream: int, size: int) -> bytes:
    """Return a WINDOW_UPDATE frame of `size` bytes; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, _NUMBER.pack(size))


def rst_stream(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, _NUMBER.pack(code))


def goaway(last_stream: int, code: int, why: str = "") -> bytes:
    """Return a GOAWAY frame; streams above `last_stream` were not processed."""
    return frame(GOAWAY, 0, 0, _NUMBER.pack(last_stream) + _NUMBER.pack(code) + why.encode())


def number(payload: bytes) -> int:
    """Return the 31-bit number at the start of a payload."""
    value: int = _NUMBER.unpack_from(payload)[0]
    return value & _STREAM_BITS


class Receiver(Protocol):
    """Receives each frame from a `FrameReader`."""

    def on_frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Take a complete frame other than DATA, of a length valid for its kind."""

    def on_data(self, stream: int, data: memoryview, counted: int, *, ends: bool) -> None:
        """Take part of a DATA frame, `counted` bytes for flow control; `ends` closes the stream."""

    def on_skipped(self, size: int) -> None:
        """Note a frame of unknown kind, of `size` bytes, whose content is skipped."""


class FrameReader:
    """Split incoming data into frames, buffering at most one HEADERS frame.

    DATA is passed on as it arrives, so that no client can fill memory here. `has_more` means that
    more frames arrived than are processed at once; call `feed` again. Raises ConnectionFault.
    """

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._rest = b""
        self.has_more = False
        self._has_preface = False
        self._stream = 0
        self._ends = False
        self._is_skipped = False
        self._content_left = 0
        self._padding_left = 0

    def feed(self, data: bytes = b"") -> None:
        """Take incoming data."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, end, taken = 0, len(data), 0
        self.has_more = False
        if not self._has_preface:
            if not self._read_preface(data):
                return
            at = len(PREFACE)
        while at < end:
            if self._content_left or self._padding_left:
                at = self._go_on(data, at)
                continue
            if end - at < _HEAD.size:
                break
            if taken == _AT_ONCE:
                self.has_more = True
                break
            taken += 1
            high, low, kind, flags, stream = _HEAD.unpack_from(data, at)
            size, begin = high << 8 | low, at + _HEAD.size
            if kind == DATA or kind > CONTINUATION:
                after = self._begin_parts(data, begin, size, (kind, flags, stream & _STREAM_BITS))
            else:
                after = self._read_whole(data, begin, size, (kind, flags, stream & _STREAM_BITS))
            if after < 0:
                break
            at = after
        self._rest = data[at:]

    def _read_preface(self, data: bytes) -> bool:
        """Return whether the preface is complete."""
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise ConnectionFault(
                PROTOCOL_ERROR,
                "this port speaks gRPC over HTTP/2; the connection preface is missing",
            )
        if len(data) < len(PREFACE):
            self._rest = data
            return False
        self._has_preface = True
        return True

    def _read_whole(self, data: bytes, begin: int, size: int, head: tuple[int, int, int]) -> int:
        """Pass on a frame as a whole; return where it ends, or -1 while it is incomplete."""
        kind, flags, stream = head
        if size not in _LENGTHS[kind]:
            raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame of type {kind} has {size} bytes")
        if size > LARGEST_HEADERS:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "the headers are too large")
        end = begin + size
        if len(data) < end:
            return -1
        self._receiver.on_frame(kind, flags, stream, data[begin:end])
        return end

    def _begin_parts(self, data: bytes, begin: int, size: int, head: tuple[int, int, int]) -> int:
        """Begin a frame that is passed on in parts; return where its content begins.

        Returns -1 while the byte with the padding's length is missing.
        """
        kind, flags, stream = head
        if size > MAX_FRAME:
            raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame has {size} bytes")
        padding, counted = 0, 0
        if kind == DATA and flags & PADDED:
            if len(data) == begin:
                return -1
            counted, padding = 1, data[begin] if size else 1
            if padding >= size:
                raise ConnectionFault(PROTOCOL_ERROR, "DATA with more padding than payload")
            begin += 1
        self._stream, self._ends = stream, bool(flags & END_STREAM)
        self._is_skipped = kind != DATA
        self._content_left, self._padding_left = size - counted - padding, padding
        if self._is_skipped:
            self._receiver.on_skipped(size)
        elif not self._content_left:
            ends = self._ends and not padding
            self._receiver.on_data(stream, memoryview(b""), counted, ends=ends)
        elif counted:
            self._receiver.on_data(stream, memoryview(b""), counted, ends=False)
        return begin

    def _go_on(self, data: bytes, at: int) -> int:
        """Pass on the available part of a frame's content, then of its padding."""
        if self._content_left:
            part = memoryview(data)[at : at + self._content_left]
            taken = len(part)
            self._content_left -= taken
        else:
            part, taken = memoryview(b""), min(self._padding_left, len(data) - at)
            self._padding_left -= taken
        if not self._is_skipped:
            ends = self._ends and not self._content_left and not self._padding_left
            self._receiver.on_data(self._stream, part, taken, ends=ends)
        return at + taken


class Patience:
    """The number of useless frames that a connection may still send.

    PING, SETTINGS, RST_STREAM, empty frames and the like cost the server about as much as their
    sender, and more if each is answered. Answered calls and moving data earn some more.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._left = _MOST_USELESS
        self._at = clock()

    def earn(self, frames: float) -> None:
        """Allow more frames, after something useful."""
        self._left = min(_MOST_USELESS, self._left + frames)

    def spend(self, frames: float = 1) -> None:
        """Count useless frames. Raises ConnectionFault when there are too many."""
        self._left -= frames
        if self._left < 0:
            now = self._clock()
            self._left = min(_MOST_USELESS, self._left + (now - self._at) * _USELESS_PER_SECOND)
            self._at = now
            if self._left < 0:
                raise ConnectionFault(ENHANCE_YOUR_CALM, "too many frames that have no effect")
