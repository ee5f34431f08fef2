"""Assemble a call's messages from DATA, and decompress them (PROTOCOL-HTTP2.md).

A message may span frames; it is preceded by five bytes: a compression flag and its length. Bytes
are counted in the server's `BodyMemory` as they arrive, and never kept unless they were granted.
"""

from __future__ import annotations

import asyncio
import struct
import zlib
from collections import deque
from contextlib import nullcontext
from io import BytesIO

from mlserve.server.body_memory import HeldBody
from mlserve.server.listen.grpc.status import GrpcStatus

PREFIX = struct.Struct(">BI")
_WBITS = {b"gzip": 31, b"deflate": 15}
_ENCODINGS = ", ".join(("identity", *(name.decode() for name in _WBITS)))
_MOST_READY = 32
_STEP = 2**20
_INLINE = 64 * 2**10
"""Compressed bytes above which a thread decompresses the message."""


class MessageReader:
    """Split the data of one call into messages of at most `most` bytes.

    Without a `body` nothing is counted: for methods whose messages are a few bytes.
    """

    def __init__(self, most: int, limit_name: str, encoding: bytes, body: HeldBody | None) -> None:
        self._ready: deque[tuple[bool, bytes]] = deque()
        """Complete messages: whether each is compressed, and its bytes."""
        self._most = most
        self._limit_name = limit_name
        self._encoding = encoding
        self._body = body
        self._prefix = b""
        self._is_compressed = False
        self._buffer = BytesIO()
        self.missing = 0
        """Bytes still missing from the current message."""

    @property
    def ready(self) -> int:
        """The number of complete messages that have not been taken."""
        return len(self._ready)

    @property
    def is_between_messages(self) -> bool:
        """Whether no part of another message has arrived."""
        return not self.missing and not self._prefix

    def feed(self, data: memoryview) -> None:
        """Take a part of the data. Raises GrpcStatus, and Overloaded if there is no room."""
        if self._body is not None:
            self._body.take(len(data))
        at, end = 0, len(data)
        while at < end:
            if not self.missing:
                taken = data[at : at + PREFIX.size - len(self._prefix)]
                self._prefix += taken
                at += len(taken)
                if len(self._prefix) < PREFIX.size:
                    return
                self._begin(*PREFIX.unpack(self._prefix))
                self._prefix = b""
                continue
            part = data[at : at + self.missing]
            at += len(part)
            self.missing -= len(part)
            if not self.missing and not self._buffer.tell():
                self._ready.append((self._is_compressed, bytes(part)))
                continue
            self._buffer.write(part)
            if not self.missing:
                self._ready.append((self._is_compressed, self._buffer.getvalue()))
                self._buffer = BytesIO()

    def drop(self) -> None:
        """Discard all data received."""
        self._ready.clear()
        self._buffer = BytesIO()

    async def take(self) -> bytes:
        """Return the next message, decompressed. Raises GrpcStatus and Overloaded."""
        is_compressed, message = self._ready.popleft()
        if not is_compressed:
            return message
        if len(message) <= _INLINE:
            return self._unpack(message)
        return await asyncio.to_thread(self._unpack_on_thread, message)

    def _begin(self, flag: int, size: int) -> None:
        if flag > 1:
            raise GrpcStatus("INTERNAL", f"the first byte of a message is {flag}, not 0 or 1")
        if flag and self._encoding == b"identity":
            raise GrpcStatus(
                "INTERNAL", "a message is compressed, but the grpc-encoding header is missing"
            )
        if size > self._most:
            raise self._too_large(size)
        if len(self._ready) >= _MOST_READY:
            raise GrpcStatus(
                "RESOURCE_EXHAUSTED", "too many messages before the first was answered"
            )
        self._is_compressed, self.missing = bool(flag), size
        if not size:
            self._ready.append((self._is_compressed, b""))

    def _unpack_on_thread(self, message: bytes) -> bytes:
        """Decompress; memory stays counted until the thread ends, even if the call ends first."""
        with nullcontext() if self._body is None else self._body:
            return self._unpack(message)

    def _unpack(self, message: bytes) -> bytes:
        inflate = zlib.decompressobj(_WBITS[self._encoding])
        out, rest, part = BytesIO(), message, b"-"
        try:
            while not inflate.eof and (rest or part):
                part = inflate.decompress(rest, _STEP)
                if self._body is not None:
                    self._body.take(len(part))
                out.write(part)
                if out.tell() > self._most:
                    raise self._too_large(out.tell())
                rest = inflate.unconsumed_tail
        except zlib.error as error:
            raise GrpcStatus("INTERNAL", f"a message cannot be decompressed: {error}") from error
        if not inflate.eof or inflate.unused_data:
            raise GrpcStatus(
                "INTERNAL", "a message cannot be decompressed: it is cut off, or more data follows"
            )
        return out.getvalue()

    def _too_large(self, size: int) -> GrpcStatus:
        return GrpcStatus(
            "RESOURCE_EXHAUSTED",
            f"received message larger than max ({size} vs. {self._most}){self._limit_name}",
        )


def check_encoding(encoding: bytes) -> None:
    """Raise GrpcStatus for a message encoding that the server does not support."""
    if encoding != b"identity" and encoding not in _WBITS:
        shown = encoding[:40].decode("ascii", "replace")
        raise GrpcStatus(
            "UNIMPLEMENTED",
            f"messages are compressed with {shown!r}; this server takes {_ENCODINGS}",
        )
