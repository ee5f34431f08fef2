"""Receive, decompress and decode REST bodies, within limits of size, memory and time.

Decompression and decoding run in pieces, on the thread that reads the request.
"""

from __future__ import annotations

import asyncio
import codecs
import pickle
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import numpy as np

from mlserve.deadline import Deadline
from mlserve.errors import InputTooLarge, InvalidInput, Overloaded, Unavailable
from mlserve.options import flag_of
from mlserve.server.body_memory import PIECE, RETRY_SECONDS, UNBOUNDED, BodyMemory, Room
from mlserve.server.message import Headers, Request
from mlserve.server.request import current

_GZIP = 31  # zlib's wbits for a gzip stream
_ZLIB_HEAD, _ZLIB_CHECK = 2, 31  # RFC 1950: its two bytes, as one number, are a multiple of 31
_MAX_DIGITS = 20
_MAX_MEMBERS = 4096
_GROWS = 2**20
"""Bytes that are decompressed at once, at most."""
_TWO_BYTES, _FOUR_BYTES = 0xC4, 0xF0
"""UTF-8 lead bytes from which on Python stores every character of a text in 2, or in 4, bytes."""

Content = bytes | bytearray


class BodyTooLarge(InputTooLarge):
    """The body exceeds the size limit; the rest of it has not been read."""


class NoRoom(Overloaded):
    """There is no memory left for the body; the rest of it has not been read."""


class Body:
    """The body of one request; its memory is counted until it has been read or given up.

    The request's task holds its `with` block; the thread that reads it holds `reading`.
    """

    def __init__(self, memory: BodyMemory, deadline: Deadline) -> None:
        self.content: Content = b""
        """The bytes as sent; empty once `reading` has ended."""
        self.deadline = deadline
        self.held = memory.open(self._give_way)
        self.is_left = False
        """Whether the request's task has ended, so that no one waits for an answer."""
        self.room: Room = _BodyRoom(self)
        self._loop = asyncio.get_running_loop()
        self._patience: asyncio.Timeout | None = None

    def __reduce__(self) -> tuple[type[BodyElsewhere], tuple[pickle.PickleBuffer, Deadline]]:
        return BodyElsewhere, (pickle.PickleBuffer(self.content), self.deadline)

    def __enter__(self) -> Body:
        self.held.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.is_left = True
        self.content = b""
        self.held.__exit__(kind, error, trace)

    async def receive(self, request: Request, limit: int) -> None:
        """Receive the body.

        Raises BodyTooLarge (before reading, if Content-Length says so), DeadlineExceeded, and
        NoRoom when the bodies of all requests take too much memory.
        """
        check_length(request.headers, limit)
        try:
            if request.has_arrived:  # most have, and a timer costs more than what it would watch
                await self._receive(request, limit)
            else:
                async with asyncio.timeout_at(self.deadline.expires_at) as self._patience:
                    await self._receive(request, limit)
        except TimeoutError:
            self._require_room()
            raise self.deadline.exceeded("the request's body was still arriving") from None
        except Overloaded as error:
            self._require_room()
            raise NoRoom(error.message, retry_after=error.retry_after, hint=error.hint) from None
        finally:
            self._patience = None
            self.held.finish()
        self._require_room()
        current().bytes_in = len(self.content)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Hold the body while a thread makes arrays of it, then release it."""
        with self.held:
            try:
                yield
            finally:
                self.content = b""
                self.held.release()

    def forget(self, unpacked: Content) -> None:
        """Release the bytes as sent and as decompressed, before the text made of them is parsed."""
        _forget(self, unpacked)

    async def _receive(self, request: Request, limit: int) -> None:
        while part := await request.next_part():
            if len(self.content) + len(part) > limit:
                raise BodyTooLarge(_too_large(f"more than {limit} bytes", limit))
            self.held.take(len(part))
            if not self.content:
                self.content = part
            elif isinstance(self.content, bytes):
                self.content = bytearray(self.content)
                self.content += part
            else:  # grows in place, without copying the whole body each time
                self.content += part

    def _require_room(self) -> None:
        if self.held.has_given_way:
            raise NoRoom(
                "the body arrived too slowly, so its memory was given to other requests",
                retry_after=RETRY_SECONDS,
                hint="try again, or send a smaller request",
            )

    def _give_way(self) -> None:
        self._loop.call_soon_threadsafe(self._stop_receiving)

    def _stop_receiving(self) -> None:
        if self._patience is not None:
            self.content = b""
            self._patience.reschedule(self._loop.time())


class BodyElsewhere:
    """A body in the process that reads it; the server's own counts its memory."""

    def __init__(self, content: Content, deadline: Deadline) -> None:
        self.content = content
        self.deadline = deadline
        self.room: Room = UNBOUNDED

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Drop the content at the end of the block."""
        try:
            yield
        finally:
            self.content = b""

    def forget(self, unpacked: Content) -> None:
        """Release the bytes as sent and as decompressed, before the text made of them is parsed."""
        _forget(self, unpacked)


def _forget(body: Body | BodyElsewhere, unpacked: Content) -> None:
    size = len(unpacked)
    size += 0 if unpacked is body.content else len(body.content)
    body.content = b""
    body.room.give_back(size)


class _BodyRoom(Room):
    """The memory and time for reading one body."""

    def __init__(self, body: Body) -> None:
        self._body = body

    def take(self, size: int) -> None:
        self._require_caller()  # who has left has released the body: this would stay counted
        self._body.held.take(size)

    def give_back(self, size: int) -> None:
        self._body.held.release(size)

    def require_time(self) -> None:
        self._body.deadline.require("reading the request")
        self._require_caller()

    def _require_caller(self) -> None:
        if self._body.is_left:
            raise Unavailable("the client disconnected")


def length_of(headers: Headers) -> int:
    """Return the length that Content-Length gives, in bytes; 0 if it gives none that is sane."""
    length = headers.get("content-length")
    return int(length) if length.isdigit() and len(length) <= _MAX_DIGITS else 0


def check_length(headers: Headers, limit: int) -> None:
    """Raise BodyTooLarge if Content-Length exceeds the limit."""
    length = headers.get("content-length")
    if length.isdigit() and (len(length) > _MAX_DIGITS or int(length) > limit):
        raise BodyTooLarge(_too_large(f"{length[:_MAX_DIGITS]} bytes", limit))


def content_of(body: Content, headers: Headers, limit: int, room: Room = UNBOUNDED) -> Content:
    """Return the decompressed body. Raises InvalidInput, and InputTooLarge for a bomb."""
    encoding = _encoding(headers)
    if encoding in ("gzip", "x-gzip"):
        return gunzip(body, limit, room)
    if encoding == "deflate":
        return inflate(body, limit, room)
    if encoding != "identity":
        raise InvalidInput(
            f"Content-Encoding {encoding[:_MAX_DIGITS]!r} is not supported; send gzip, deflate or "
            "none"
        )
    return body


def text_of(content: Content | memoryview, room: Room = UNBOUNDED) -> str:
    """Decode UTF-8, without a byte order mark. Raises InvalidInput."""
    if len(content) <= 2 * PIECE:
        try:
            has_mark = bytes(content[: len(codecs.BOM_UTF8)]) == codecs.BOM_UTF8
            return str(content, "utf-8-sig" if has_mark else "utf-8")  # C alone reads the latter
        except UnicodeDecodeError as error:
            raise _not_utf_8(error) from error
    room.take(len(content) * _widest(content, room))
    reader = codecs.getincrementaldecoder("utf-8-sig")()
    view, parts = memoryview(content), []
    for start in range(0, len(content), PIECE):
        room.require_time()
        piece = view[start : start + PIECE]
        try:
            parts.append(reader.decode(piece, final=start + PIECE >= len(content)))
        except UnicodeDecodeError as error:  # counts from the bytes left over from the last piece
            raise _not_utf_8(error, start + len(piece) - len(error.object)) from error
    return "".join(parts)


def is_encoded(headers: Headers) -> bool:
    """Return whether the headers declare the body compressed."""
    return _encoding(headers) != "identity"


def inflate(data: Content, limit: int, room: Room = UNBOUNDED) -> bytearray:
    """Decompress a deflate body, up to `limit` bytes. Raises InvalidInput and InputTooLarge.

    That is a zlib stream (RFC 9110, 8.4.1.2). Some clients send raw deflate data without zlib's
    head; that data cannot be mistaken for a head.
    """
    has_head = len(data) >= _ZLIB_HEAD and data[0] & 0xF == zlib.DEFLATED
    has_head = has_head and int.from_bytes(data[:_ZLIB_HEAD], "big") % _ZLIB_CHECK == 0
    unpacked = _Unpacked("deflate", limit, room)
    stream = zlib.decompressobj(zlib.MAX_WBITS if has_head else -zlib.MAX_WBITS)
    place = unpacked.add(stream, data, 0)
    if not stream.eof:
        raise InvalidInput("the body is not valid deflate: it ends early")
    if place != len(data):
        raise InvalidInput("the body is not valid deflate: data follows its end")
    return unpacked.content


def gunzip(data: Content, limit: int, room: Room = UNBOUNDED) -> bytearray:
    """Decompress a gzip stream of one or more members, up to `limit` bytes.

    Raises InputTooLarge, and InvalidInput, also for more than 4,096 members (64 MiB of bgzip's
    blocks are 1,024).
    """
    unpacked, place, members = _Unpacked("gzip", limit, room), 0, 0
    while place < len(data) or not members:
        if members == _MAX_MEMBERS:
            raise InvalidInput(f"the body has more than {_MAX_MEMBERS} gzip members")
        members += 1
        member = zlib.decompressobj(_GZIP)
        place = unpacked.add(member, data, place)
        if not member.eof:
            raise InvalidInput("the body is not valid gzip: it ends early")
    return unpacked.content


class _Unpacked:
    """The decompressed part of a body; it grows in pieces, each counted in the request's memory."""

    def __init__(self, encoding: str, limit: int, room: Room) -> None:
        self.content = bytearray()
        self._encoding = encoding
        self._limit = limit
        self._room = room

    def add(self, stream: zlib._Decompress, data: Content, place: int) -> int:
        """Decompress the stream at `place`; return where the data after it begins.

        The data is fed in pieces because zlib copies what follows a stream: with whole bodies, the
        members of a gzip would take quadratic time.
        """
        while place < len(data) and not stream.eof:
            piece = data[place : place + PIECE]
            place += len(piece)
            self._grow(stream, piece)
            while stream.unconsumed_tail and not stream.eof:
                self._grow(stream, stream.unconsumed_tail)
        return place - len(stream.unused_data)

    def _grow(self, stream: zlib._Decompress, piece: Content) -> None:
        self._room.require_time()
        try:
            more = stream.decompress(piece, _GROWS)
        except zlib.error as error:
            raise InvalidInput(f"the body is not valid {self._encoding}: {error}") from error
        if len(self.content) + len(more) > self._limit:
            most = f"more than {self._limit} bytes when decompressed"
            raise InputTooLarge(_too_large(most, self._limit))
        self._room.take(len(more))
        self.content += more


def _widest(content: Content | memoryview, room: Room) -> int:
    """Return the bytes per character of the decoded text: all are as wide as the widest."""
    view, widest = memoryview(content), 1
    for start in range(0, len(content), PIECE):
        room.require_time()
        highest = np.frombuffer(view[start : start + PIECE], np.uint8).max()
        if highest >= _FOUR_BYTES:
            return 4
        widest = 2 if highest >= _TWO_BYTES else widest
    return widest


def _encoding(headers: Headers) -> str:
    return headers.get("content-encoding", "identity").strip().lower()


def _not_utf_8(error: UnicodeDecodeError, offset: int = 0) -> InvalidInput:
    """Return the error in Python's words, with positions counted from `offset`."""
    first, last = error.start + offset, error.end + offset - 1
    what = f"byte 0x{error.object[error.start]:02x} in position {first}"
    if first != last:
        what = f"bytes in position {first}-{last}"
    return InvalidInput(f"the body is not UTF-8: 'utf-8' codec can't decode {what}: {error.reason}")


def _too_large(what: str, limit: int) -> str:
    flag = flag_of("max_request_bytes")
    return f"the body has {what}; this server takes at most {limit} ({flag})"
