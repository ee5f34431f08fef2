"""Reads HTTP/1.1 answers (RFC 9112) from pieces of bytes, however they are cut. No I/O.

What servers really send is read: lines that end in a bare LF, folded fields, interim answers (1xx),
lengths, chunks, and bodies that end with the connection. What could be read in two ways is refused.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

MOST_OF_A_HEAD = 2**17
"""Bytes of an answer's status line and fields, its interim answers included."""
_MOST_OF_A_LINE = 2**12
"""Bytes of the line before a chunk."""
_MOST_DIGITS = 19
"""Enough for a 64-bit number."""
_SHOWN = 80
"""Bytes of an answer that an error shows."""
_GZIP = 31  # zlib's wbits for a gzip stream
_OK, _MULTIPLE_CHOICES = 200, 300
_SWITCHING = 101
_WITHOUT_BODY = (204, 304)
_END_OF_HEAD = re.compile(rb"\n\r?\n")
_STATUS = re.compile(r"HTTP/1\.([0-9]) ([1-9][0-9]{2})(?: (.*))?")
_FIELD = re.compile(r"^([!#$%&'*+\-.^_`|~0-9A-Za-z]+):([^\n]*)$", re.MULTILINE)
_FOLD = re.compile(r"\n[ \t]+")  # to match the blanks before it as well takes quadratic time
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;.*)?\r?", re.DOTALL)


class AnswerError(Exception):
    """An answer that cannot be read to its end; the message says why."""


class NotHttp(AnswerError):
    """What came is not an answer of HTTP/1."""


class UnknownCoding(AnswerError):
    """The body is coded in a way that is not known, or not as its head says."""


class TooLarge(AnswerError):
    """The body has more bytes than the caller reads."""


class CutOff(AnswerError):
    """The connection ended before the answer did."""


class AnswerReader:
    """Reads the answer to one request, with a body of up to `limit` bytes once it is unpacked.

    `status` is 0 until the head has been read; `headers` have lower-case names, and values that
    came several times joined by commas. `can_be_kept` says, once it is read, whether the server
    takes another request on the connection. With `is_tunnel` it answers CONNECT: a success has no
    body, and that of a refusal is not read. Raises AnswerError from every method that takes bytes.
    """

    __slots__ = (
        *("can_be_kept", "headers", "is_done", "reason", "status"),
        *("_body", "_counted", "_is_tunnel", "_left", "_limit", "_packed", "_rest", "_take"),
        *("_wants_line_end",),
    )

    def __init__(self, limit: int, *, is_tunnel: bool = False) -> None:
        self.status = 0
        self.reason = ""
        self.headers: dict[str, str] = {}
        self.is_done = False
        self.can_be_kept = False
        self._is_tunnel = is_tunnel
        self._limit = limit
        self._body: bytes | bytearray = b""
        self._rest = b""
        self._counted = 0  # of the head or the trailer, which have a limit
        self._left = 0
        self._wants_line_end = False
        self._take: Callable[[AnswerReader, bytes], None] = AnswerReader._take_head
        self._packed: zlib._Decompress | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the server has said anything."""
        return bool(self._rest or self._counted or self.status)

    @property
    def body(self) -> bytes:
        """The body, unpacked."""
        return bytes(self._body)

    def feed(self, data: bytes) -> bool:
        """Read what came; return whether the answer is whole."""
        if data and self.is_done:
            self.can_be_kept = False  # nothing may follow an answer before the next request
        elif data:
            self._take(self, data)
        return self.is_done

    def end(self) -> None:
        """Take the end of the connection. Raises CutOff unless the answer ends with it."""
        if self._take is AnswerReader._take_until_end:
            self._finish()
        elif not self.is_done and not self.has_begun:
            raise CutOff("it closed the connection without an answer")
        elif not self.is_done:
            raise CutOff("it closed the connection in the middle of the answer")

    def _take_head(self, data: bytes) -> None:
        came = self._rest + data if self._rest else data
        at, searched = 0, max(0, len(self._rest) - 2)
        while (end := _END_OF_HEAD.search(came, searched)) is not None:
            self._count(end.end() - at, 0)
            status = self._read_head(came[at : end.start()])
            at = searched = end.end()
            if status >= _OK:
                self.status, self._rest = status, b""
                self.feed(came[at:])
                return
        self._rest = came[at:]
        self._count(0, len(self._rest))
        if not (self._counted or b"HTTP/1."[: len(came)] == came[:7]):
            raise NotHttp(f"illegal status line: {came[:_SHOWN]!r}")

    def _count(self, read: int, unread: int) -> None:
        """Take note of so many more bytes of a head or a trailer. Raises NotHttp if too many."""
        self._counted += read
        if self._counted + unread > MOST_OF_A_HEAD:
            raise NotHttp(f"the head of an answer has more than {MOST_OF_A_HEAD} bytes")

    def _read_head(self, head: bytes) -> int:
        """Read the status line and the fields, and how the body ends; return the status."""
        text = _text(head).replace("\r\n", "\n").rstrip("\r")
        line, _, fields = text.partition("\n")
        found = _STATUS.fullmatch(line)
        if found is None:
            raise NotHttp(f"illegal status line: {head[:_SHOWN]!r}")
        status = int(found[2])
        if status == _SWITCHING:
            raise NotHttp("it switches to another protocol, for which nobody asked")
        if status < _OK:
            return status
        self.reason = found[3] or ""
        self.headers = _read_fields(fields)
        self._choose_unpacking()
        self._choose_end(status, is_old=found[1] == "0")
        return status

    def _choose_end(self, status: int, *, is_old: bool) -> None:
        """Find where the body ends (RFC 9112, 6.3)."""
        headers = self.headers
        codings, length = headers.get("transfer-encoding"), headers.get("content-length")
        closes = "close" in _words(headers.get("connection", ""))
        self.can_be_kept = not (is_old or closes)
        if self._is_tunnel:
            self.is_done = True
            self.can_be_kept = _OK <= status < _MULTIPLE_CHOICES
        elif status in _WITHOUT_BODY:
            self.is_done = True
        elif codings is not None:
            if _words(codings) != ["chunked"]:
                raise NotHttp(f"illegal Transfer-Encoding: {codings[:_SHOWN]!r}")
            # With a length beside it, somebody on the way may have read another end.
            self.can_be_kept = self.can_be_kept and length is None
            self._take = AnswerReader._take_chunks
        elif length is not None:
            self._left = _read_length(length)
            self.is_done = self._left == 0
            if self._packed is None and self._left > self._limit:
                raise TooLarge
            self._take = AnswerReader._take_length
        else:
            self.can_be_kept = False
            self._take = AnswerReader._take_until_end

    def _choose_unpacking(self) -> None:
        """Choose how the body is unpacked: gzip is, although the request accepts no coding."""
        coding = self.headers.get("content-encoding", "identity").strip().lower()
        if coding == "identity" or self._is_tunnel:
            return
        if coding not in ("gzip", "x-gzip"):
            raise UnknownCoding(f"Content-Encoding {coding[:100]!r}")
        self._packed = zlib.decompressobj(_GZIP)

    def _take_length(self, data: bytes) -> None:
        extra = len(data) - self._left
        if extra > 0:
            data, self.can_be_kept = data[: self._left], False
        self._left -= len(data)
        self._add(data)
        if self._left == 0:
            self._finish()

    def _take_until_end(self, data: bytes) -> None:
        self._add(data)

    def _take_chunks(self, data: bytes) -> None:
        """Read chunks (RFC 9112, 7.1); what is kept for the next piece is less than a line."""
        came = self._rest + data if self._rest else data
        at, self._rest = 0, b""
        while at < len(came):
            if self._left:
                piece = came[at : at + self._left]
                at, self._left = at + len(piece), self._left - len(piece)
                self._wants_line_end = self._left == 0
                self._add(piece)
                continue
            end = came.find(b"\n", at)
            if end < 0 or end - at > _MOST_OF_A_LINE:
                if len(came) - at > _MOST_OF_A_LINE:
                    raise NotHttp(f"malformed chunk: {came[at : at + _SHOWN]!r}")
                self._rest = came[at:]
                return
            line, at = came[at:end], end + 1
            if self._wants_line_end:
                self._wants_line_end = False
                if line not in (b"\r", b""):
                    raise NotHttp(f"malformed end of a chunk: {line[:_SHOWN]!r}")
            elif self._read_chunk_line(line):
                self._take, self._counted = AnswerReader._take_trailer, 0
                self.feed(came[at:])
                return

    def _read_chunk_line(self, line: bytes) -> bool:
        """Read the size of the next chunk; return whether it is the last, which is empty."""
        found = _CHUNK.fullmatch(line)
        if found is None:
            raise NotHttp(f"malformed size of a chunk: {line[:_SHOWN]!r}")
        self._left = int(found[1], 16)
        return self._left == 0

    def _take_trailer(self, data: bytes) -> None:
        """Skip the fields after the last chunk."""
        came = self._rest + data if self._rest else data
        at, self._rest = 0, b""
        while (end := came.find(b"\n", at)) >= 0:
            line, at = came[at:end], end + 1
            if line in (b"\r", b""):
                self._finish()
                self.feed(came[at:])
                return
        self._rest = came[at:]
        self._count(at, len(self._rest))

    def _add(self, data: bytes) -> None:
        """Add a piece of the body, unpacked to no more than is read."""
        room = self._limit - len(self._body)
        if self._packed is not None:
            try:
                data = self._packed.decompress(data, room + 1)
            except zlib.error as error:
                raise UnknownCoding(str(error)) from error
        if len(data) > room:
            raise TooLarge
        if not self._body:
            self._body = data  # most answers come in one piece
            return
        if isinstance(self._body, bytes):
            self._body = bytearray(self._body)  # a list of tiny pieces would take far more memory
        self._body += data

    def _finish(self) -> None:
        """Take note that the body is whole, and require that it is one whole gzip if it is packed.

        An empty body may be named gzip all the same.
        """
        packed = self._packed
        if packed is not None and self._body and not packed.eof:
            raise UnknownCoding("its gzip is cut off")
        if packed is not None and packed.unused_data:
            raise UnknownCoding("something follows its gzip")
        self.is_done = True


def _text(head: bytes) -> str:
    try:
        return head.decode()
    except UnicodeDecodeError:
        return head.decode("latin-1")


def _read_fields(text: str) -> dict[str, str]:
    """Return the fields by their lower-case names. Raises NotHttp for what is no field."""
    if "\n " in text or "\n\t" in text:
        text = _FOLD.sub(" ", text)
    if "\r" in text or "\0" in text:
        raise NotHttp("illegal characters in the head of an answer")
    found = _FIELD.findall(text)
    if len(found) != (text.count("\n") + 1 if text else 0):
        wrong = next(line for line in text.split("\n") if not _FIELD.fullmatch(line))
        raise NotHttp(f"illegal header line: {wrong[:_SHOWN]!r}")
    fields: dict[str, str] = {}
    for name, value in found:
        key, said = name.lower(), value.strip(" \t")
        fields[key] = f"{fields[key]}, {said}" if key in fields else said
    return fields


def _words(text: str) -> list[str]:
    """Return the parts of a list of words, in lower case."""
    return [word.strip(" \t") for word in text.lower().split(",")]


def _read_length(text: str) -> int:
    """Return the length of a body; the same one may be there several times."""
    lengths = set(_words(text))
    length = lengths.pop()
    if lengths or not (length.isascii() and length.isdecimal()) or len(length) > _MOST_DIGITS:
        raise NotHttp(f"illegal Content-Length: {text[:_SHOWN]!r}")
    return int(length)
