"""HTTP/1.1 for the load generator: of an answer, only what says how it ended is read."""

from __future__ import annotations

from mlserve.bench.connection import Fail, LoadConnection, Request, Take, kind_of_http
from mlserve.bench.tally import ANSWERED

_END = b"\r\n\r\n"
_LENGTH = b"\r\ncontent-length:"
_TIMING = b"\r\nserver-timing:"
_CHUNKED = b"\r\ntransfer-encoding: chunked"
_CLOSE = b"\r\nconnection: close"
_OLD, _KEEP = b"http/1.0", b"\r\nconnection: keep-alive"
_NEVER = -1
_INFORMATIONAL = 200
_MOST_SAID = 4096
"""Bytes of an error that are given on."""


class Http1Connection(LoadConnection):
    """One HTTP/1.1 connection that is kept open."""

    _came = b""
    _left = 0
    _kind = ""
    _timing = b""
    _is_last = False
    _chunks: bytearray | None = None
    _take: Take | None = None
    _fail: Fail | None = None
    _kept: bytearray | None = None
    _head = b""

    def send(self, request: Request) -> None:
        assert self._transport is not None
        self.is_busy = True
        self._came, self._left, self._chunks = b"", 0, None
        self._take, self._fail = request.take, request.fail
        self._kept = None if request.take is None else bytearray()
        self._transport.write(request.head + request.content())

    @property
    def has_begun(self) -> bool:
        return bool(self._came)

    def give_up(self) -> None:
        self.close()

    def data_received(self, data: bytes) -> None:
        if not self.is_busy:
            return
        if self._chunks is not None:
            self._chunks += data
            self._end_of_chunks()
        elif self._left:
            self._keep(data)
            if self._left != _NEVER:
                self._left -= len(data)
                self._end_if_whole()
        else:
            self._came += data
            self._read_head()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.is_busy and self._left == _NEVER and exc is None:
            self.is_open = False
            self._hand_over()
            self._end(self._kind, self._timing)  # a body without a length ends so
        else:
            super().connection_lost(exc)

    def _read_head(self) -> None:
        end = self._came.find(_END)
        if end < 0:
            return
        head = self._head = self._came[:end].lower()
        try:
            status = int(head[9:12])
            at = head.find(_LENGTH)
            length = int(_value(head, at + len(_LENGTH))) if at >= 0 else None
        except ValueError:
            self._spoil()
            return
        body = self._came[end + len(_END) :]
        if status < _INFORMATIONAL:
            self._came = body
            self._read_head()
            return
        at = head.find(_TIMING)
        self._timing = _value(head, at + len(_TIMING)) if at >= 0 else b""
        self._kind = kind_of_http(status)
        self._is_last = _CLOSE in head or (head.startswith(_OLD) and _KEEP not in head)
        if _CHUNKED not in head or length is not None:
            self._keep(body)
        if length is not None:
            self._left = length - len(body)
            self._end_if_whole()
        elif _CHUNKED in head:
            self._chunks = bytearray(body)
            self._end_of_chunks()
        else:
            self._left = _NEVER

    def _end_if_whole(self) -> None:
        if self._left < 0:
            self._spoil()
        elif self._left == 0:
            self._finish()

    def _end_of_chunks(self) -> None:
        """Skip the chunks that are whole, and end after the last one (RFC 9112, 7.1)."""
        chunks = self._chunks
        assert chunks is not None
        while (end := chunks.find(b"\r\n")) >= 0:
            try:
                size = int(chunks[:end].partition(b";")[0], 16)
            except ValueError:
                self._spoil()
                return
            if size == 0:
                if chunks.find(_END, end) >= 0:
                    self._finish()
                return
            if len(chunks) < end + 2 + size + 2:
                return
            self._keep(chunks[end + 2 : end + 2 + size])
            del chunks[: end + 2 + size + 2]

    def _keep(self, data: bytes | bytearray) -> None:
        """Keep a part of the answer, if somebody takes it."""
        if self._kept is not None:
            self._kept += data

    def _hand_over(self) -> None:
        """Give an answer, or what an error says, to who takes it."""
        if self._take is not None and self._kept is not None and self._kind == ANSWERED:
            lines = (line.partition(b":") for line in self._head.split(b"\r\n")[1:])
            headers = {name.decode("latin-1"): v.strip().decode("latin-1") for name, _, v in lines}
            self._take(headers, bytes(self._kept))
        elif self._fail is not None and self._kept is not None and self._kind != ANSWERED:
            self._fail(self._kept[:_MOST_SAID].decode(errors="replace"))
        self._kept = None

    def _finish(self) -> None:
        self._hand_over()
        if self._is_last:
            assert self._transport is not None
            self.is_open = False
            self._transport.close()
        self._end(self._kind, self._timing)


def _value(head: bytes, start: int) -> bytes:
    end = head.find(b"\r\n", start)
    return head[start : end if end >= 0 else len(head)].strip()
