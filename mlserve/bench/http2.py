"""gRPC for the load generator: the frames of HTTP/2 that a unary call needs, and no more.

A header table of size 0 is announced, so that every header block can be read by itself (RFC 7541,
4.2), and the same block is sent for every call. Frames are those of RFC 9113, 4 and 6; the calls
those of PROTOCOL-HTTP2.md of grpc/grpc.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import unquote

from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from mlserve.bench.connection import (
    LOST,
    UNSEEN,
    Fail,
    LoadConnection,
    Request,
    Take,
    kind_of_grpc,
)
from mlserve.bench.tally import ANSWERED
from mlserve.wire.headers import SERVER_TIMING
from mlserve.wire.status import CODES_OF_GRPC, GRPC_CODES_OF_HTTP

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _WINDOW, _CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
_END_STREAM, _ACK, _END_HEADERS, _PADDED, _PRIORITY = 1, 1, 4, 8, 32
_TABLE_SIZE, _ENABLE_PUSH, _INITIAL_WINDOW, _FRAME_SIZE = 1, 2, 4, 5
_FRAME = struct.Struct("!BHBBI")
_NUMBER = struct.Struct("!I")
_SETTING = struct.Struct("!HI")
_FRAME_HEAD = 9
_WINDOW_AT_FIRST = 65535
_LARGEST_WINDOW = 2**31 - 1
_CANCEL = 8
_LAST_STREAM = 2**31 - 3
_GRPC_PREFIX = struct.Struct("!BI")
_SEVEN_BITS, _EIGHTH_BIT = 0x7F, 0x80
_STATIC = tuple(HeaderTable.STATIC_TABLE)


def message(body: bytes) -> bytes:
    """Return a gRPC message with its prefix, uncompressed."""
    return _GRPC_PREFIX.pack(0, len(body)) + body


def header_block(fields: Iterable[tuple[str, str]]) -> bytes:
    """Return the fields as literals that no table remembers (RFC 7541, 6.2.2)."""
    return b"".join(
        b"\0" + _string(name.encode()) + _string(value.encode("utf-8")) for name, value in fields
    )


def _string(text: bytes) -> bytes:
    size = len(text)
    if size < _SEVEN_BITS:
        return bytes((size,)) + text
    size -= _SEVEN_BITS
    head = bytearray((_SEVEN_BITS,))
    while size > _SEVEN_BITS:
        head.append(size & _SEVEN_BITS | _EIGHTH_BIT)
        size >>= 7
    head.append(size)
    return bytes(head) + text


class Http2Connection(LoadConnection):
    """One HTTP/2 connection, with one stream at a time; it is open once the server has greeted."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.is_open = False
        self.greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._came = b""
        self._stream = -1
        self._window = _WINDOW_AT_FIRST
        self._stream_window = self._first_window = _WINDOW_AT_FIRST
        self._frame_size = 2**14
        self._unsent: memoryview | None = None
        self._received = 0
        self._fields: dict[bytes, bytes] = {}
        self._block = b""
        self._take_answer: Take | None = None
        self._fail: Fail | None = None
        self._kept: bytearray | None = None
        self._is_ending = False
        assert self._transport is not None
        settings = (
            (_TABLE_SIZE, 0),
            (_ENABLE_PUSH, 0),
            (_INITIAL_WINDOW, _LARGEST_WINDOW),
        )
        packed = b"".join(_SETTING.pack(*setting) for setting in settings)
        grown = _NUMBER.pack(_LARGEST_WINDOW - _WINDOW_AT_FIRST)
        self._transport.write(
            _PREFACE + _frame(_SETTINGS, 0, 0, packed) + _frame(_WINDOW, 0, 0, grown)
        )

    def send(self, request: Request) -> None:
        assert self._transport is not None
        self.is_busy = True
        self._stream += 2
        self._stream_window = self._first_window
        self._fields, self._block = {}, b""
        self._take_answer, self._fail = request.take, request.fail
        self._kept = None if request.take is None else bytearray()
        head, body = request.head, request.content()
        if len(head) > self._frame_size:
            self._spoil()
            return
        begin = _frame(_HEADERS, _END_HEADERS, self._stream, head)
        size = len(body)
        if size <= self._frame_size and size <= self._window and size <= self._stream_window:
            self._window -= size
            self._transport.write(begin + _frame(_DATA, _END_STREAM, self._stream, body))
            return
        self._transport.write(begin)
        self._unsent = memoryview(body)
        self._send_more()

    @property
    def has_begun(self) -> bool:
        return bool(self._fields or self._block)

    def give_up(self) -> None:
        assert self._transport is not None
        self._transport.write(_frame(_RESET, 0, self._stream, _NUMBER.pack(_CANCEL)))
        self.is_busy, self._unsent = False, None
        self._retire()

    def data_received(self, data: bytes) -> None:
        came = self._came + data if self._came else data
        at, size = 0, len(came)
        while size - at >= _FRAME_HEAD:
            high, low, kind, flags, stream = _FRAME.unpack_from(came, at)
            end = at + _FRAME_HEAD + (high << 16 | low)
            if end > size:
                break
            try:
                self._take(kind, flags, stream, came[at + _FRAME_HEAD : end])
            except (ValueError, IndexError, struct.error):
                self._spoil()
                return
            at = end
        self._came = came[at:]

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.greeted.done():
            self.greeted.set_exception(exc or ConnectionError("the server hung up"))
            self.greeted.exception()  # mark it as retrieved: it may have no waiter
        super().connection_lost(exc)

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind in (_DATA, _HEADERS, _CONTINUATION, _RESET):
            self._take_of_stream(kind, flags, stream, payload)
        elif kind == _WINDOW:
            self._grow(stream, _NUMBER.unpack(payload)[0])
        elif kind == _SETTINGS and not flags & _ACK:
            self._take_settings(payload)
        elif kind == _PING and not flags & _ACK:
            self._write(_frame(_PING, _ACK, 0, payload))
        elif kind == _GOAWAY:
            self._take_goaway(_NUMBER.unpack_from(payload)[0])

    def _take_of_stream(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        """Take a frame of the request in flight; those of requests given up are left out."""
        if kind == _DATA:
            self._take_data(len(payload))
        if stream != self._stream or not self.is_busy:
            return
        if kind == _RESET:
            self._unsent = None
            self._end(LOST)
        elif kind != _DATA:
            self._take_headers(kind, flags, payload)
        else:
            if self._kept is not None:
                self._kept += _without_padding(payload, flags & _PADDED)
            if flags & _END_STREAM:
                self._finish()

    def _take_headers(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _HEADERS and flags & (_PADDED | _PRIORITY):
            payload = _without_padding(payload, flags)
        self._is_ending = bool(flags & _END_STREAM) if kind == _HEADERS else self._is_ending
        self._block += payload
        if flags & _END_HEADERS:
            self._fields |= read_block(self._block)
            self._block = b""
            if self._is_ending:
                self._finish()

    def _take_data(self, size: int) -> None:
        """Give back what was received, in large steps; a stream's own window is never used up."""
        self._received += size
        if self._received >= _LARGEST_WINDOW // 2:
            self._write(_frame(_WINDOW, 0, 0, _NUMBER.pack(self._received)))
            self._received = 0

    def _take_settings(self, payload: bytes) -> None:
        for number, value in _SETTING.iter_unpack(payload):
            if number == _INITIAL_WINDOW:
                self._stream_window += value - self._first_window
                self._first_window = value
            elif number == _FRAME_SIZE:
                self._frame_size = value
        self._write(_frame(_SETTINGS, _ACK, 0, b""))
        if not self.greeted.done():
            self.is_open = True
            self.greeted.set_result(None)
        self._send_more()

    def _grow(self, stream: int, size: int) -> None:
        if stream == 0:
            self._window += size
        elif stream == self._stream:
            self._stream_window += size
        self._send_more()

    def _take_goaway(self, last: int) -> None:
        self.is_open = False
        if self.is_busy and last < self._stream:
            self._unsent = None
            self._end(UNSEEN)

    def _send_more(self) -> None:
        """Send of the body what the server's windows allow."""
        while self._unsent is not None:
            size = min(len(self._unsent), self._frame_size, self._window, self._stream_window)
            if size <= 0:
                return
            is_last = size == len(self._unsent)
            piece = bytes(self._unsent[:size])
            self._window -= size
            self._stream_window -= size
            self._unsent = None if is_last else self._unsent[size:]
            self._write(_frame(_DATA, _END_STREAM if is_last else 0, self._stream, piece))

    def _finish(self) -> None:
        if self._unsent is not None:  # the answer came before the whole body was sent
            self._write(_frame(_RESET, 0, self._stream, _NUMBER.pack(_CANCEL)))
            self._unsent = None
        fields = self._fields
        self._retire()
        timing, kind = fields.get(_TIMING, b""), kind_of_grpc(_code(fields))
        if self._take_answer is not None and self._kept is not None and kind == ANSWERED:
            self._take_answer({}, bytes(self._kept[_GRPC_PREFIX.size :]))
        elif self._fail is not None and kind != ANSWERED:
            self._fail(unquote(fields.get(_MESSAGE, b"").decode("latin-1")))
        self._kept = None
        self._end(kind, timing)

    def _retire(self) -> None:
        """Take no more requests once the numbers of the streams are used up."""
        if self._stream >= _LAST_STREAM:
            self.is_open = False

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)


_TIMING = SERVER_TIMING.encode()
_MESSAGE = b"grpc-message"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _FRAME.pack(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def _without_padding(payload: bytes, flags: int) -> bytes:
    start, end = 0, len(payload)
    if flags & _PADDED:
        start, end = 1, end - payload[0]
    return payload[start + (5 if flags & _PRIORITY else 0) : end]


def _code(fields: dict[bytes, bytes]) -> str:
    """Return the name of gRPC's status; without one, what the HTTP status means for gRPC."""
    status = fields.get(b"grpc-status")
    if status is not None:
        return CODES_OF_GRPC.get(int(status), "UNKNOWN")
    http = int(fields.get(b":status", b"0"))
    return GRPC_CODES_OF_HTTP.get(http, "UNKNOWN")


def read_block(block: bytes) -> dict[bytes, bytes]:
    """Return the fields of a header block that uses no dynamic table (RFC 7541, 6).

    Raises ValueError or IndexError for one that does, or that is damaged.
    """
    fields: dict[bytes, bytes] = {}
    at, size = 0, len(block)
    while at < size:
        first = block[at]
        if first & _EIGHTH_BIT:
            index, at = _integer(block, at, _SEVEN_BITS)
            name, value = _STATIC[_checked(index) - 1]
        elif first >> 5 == 1:  # the size of the table is said, which is 0
            _, at = _integer(block, at, 0x1F)
            continue
        else:
            index, at = _integer(block, at, 0x3F if first & 0x40 else 0x0F)
            if index:
                name = _STATIC[_checked(index) - 1][0]
            else:
                name, at = _read_string(block, at)
            value, at = _read_string(block, at)
        fields[name] = value
    return fields


def _checked(index: int) -> int:
    if not 1 <= index <= len(_STATIC):
        raise ValueError(f"field {index} of a table that has none")
    return index


def _integer(block: bytes, at: int, most: int) -> tuple[int, int]:
    value = block[at] & most
    at += 1
    if value < most:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & _SEVEN_BITS) << shift
        if byte < _EIGHTH_BIT:
            return value, at
        shift += 7


def _read_string(block: bytes, at: int) -> tuple[bytes, int]:
    is_packed = block[at] & _EIGHTH_BIT
    size, at = _integer(block, at, _SEVEN_BITS)
    text = block[at : at + size]
    return _unpacked(text) if is_packed else text, at + size


@lru_cache(1024)
def _unpacked(text: bytes) -> bytes:
    return bytes(decode_huffman(text))
