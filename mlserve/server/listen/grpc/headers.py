"""Read and write the headers of gRPC calls, compressed with HPACK (RFC 7541).

Incoming blocks become fields (`HeaderReader`), and fields the `Head` of a call. Outgoing blocks
surround an answer: `initial` and `trailing`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import cast

import hpack
from hpack.exceptions import HPACKError, OversizedHeaderListError

from mlserve.server.listen.grpc import frames
from mlserve.server.listen.grpc.frames import ConnectionFault, Patience
from mlserve.server.listen.grpc.status import CODES, GrpcStatus, Metadata

USUAL_BLOCK = 2**10
"""Bytes of compressed headers above which a block counts against `Patience`."""
MOST_KNOWN = 16
"""Blocks that are remembered: those of a client that sends a few timeouts in turn."""
_MOST_BLOCK = 32 * 2**10
_MOST_LIST = 64 * 2**10
"""Most bytes of headers, compressed (block) and decompressed (list), or the connection ends."""
MOST_METADATA = 16 * 2**10
"""Most bytes of a call's headers, as HTTP/2 counts: name, value and 32 bytes for each field."""
_FIELD = 32
_CONTENT_TYPE = re.compile(rb"application/grpc(?:[+;].*)?", re.DOTALL)
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_IN_VALUE = re.compile(rb"[\0\r\n]")
_HOP = (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
"""Fields that HTTP/2 forbids (RFC 9113, section 8.2.2)."""
_PSEUDO = (b":method", b":scheme", b":path", b":authority")
_OWN = (b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding")
"""Fields of the protocol, which are not part of the caller's metadata."""
EMPTY_TABLE = b"\x20"
"""Starts the first block of a connection: the encoder uses no dynamic table (section 6.3)."""
_PRINTABLE = bytes(range(0x20, 0x7F))
_UNCHANGED = frozenset(_PRINTABLE) - {ord("%")}
_ESCAPES = [chr(byte) if byte in _UNCHANGED else f"%{byte:02X}" for byte in range(256)]
_IN_A_FIELD = bytes(byte if byte in _PRINTABLE else ord("?") for byte in range(256))

Fields = Iterable[tuple[bytes, bytes]]


class Malformed(Exception):
    """The request is not gRPC: its stream is reset, or answered with an HTTP status."""

    def __init__(self, why: str, http_status: int | None = None) -> None:
        super().__init__(why)
        self.http_status = http_status


class HeaderReader:
    """Read the header blocks of one connection, in order. Raises ConnectionFault."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._decoder = hpack.Decoder(max_header_list_size=_MOST_LIST)
        self._stream = 0
        self._block = b""
        self._ends = False
        self._usual: dict[bytes, list[tuple[bytes, bytes]]] = {}
        """Blocks that left the table of compression as it is now, with their fields."""

    @property
    def is_within(self) -> bool:
        """Whether a block is incomplete, so that no other frame may arrive now."""
        return self._stream != 0

    def take(
        self, kind: int, flags: int, stream: int, payload: bytes
    ) -> tuple[list[tuple[bytes, bytes]], bool] | None:
        """Return the fields and whether they end the stream; None while the block is incomplete."""
        if kind == frames.HEADERS:
            if self.is_within or stream % 2 == 0:
                raise ConnectionFault(frames.PROTOCOL_ERROR, f"HEADERS on stream {stream}")
            self._ends = bool(flags & frames.END_STREAM)
            self._block = _without_padding(flags, payload)
        else:
            if stream != self._stream or not stream:
                raise ConnectionFault(frames.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
            self._patience.spend()
            self._block += payload
        if len(self._block) > _MOST_BLOCK:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "the headers are too large")
        if not flags & frames.END_HEADERS:
            self._stream = stream
            return None
        block, self._block, self._stream = self._block, b"", 0
        return self._decoded(block), self._ends

    def _decoded(self, block: bytes) -> list[tuple[bytes, bytes]]:
        """Return the fields of a block; the same list again for one that is sent again."""
        if len(block) > USUAL_BLOCK:
            self._patience.spend(len(block) / USUAL_BLOCK)
        known = self._usual.get(block)
        if known is not None:
            return known
        before = self._table()
        try:
            fields = self._decoder.decode(block, raw=True)
        except OversizedHeaderListError as error:
            raise ConnectionFault(frames.ENHANCE_YOUR_CALM, "the headers are too large") from error
        except (HPACKError, IndexError, ValueError) as error:
            raise ConnectionFault(
                frames.COMPRESSION_ERROR, "the headers cannot be decoded"
            ) from error
        found = cast("list[tuple[bytes, bytes]]", fields)
        # The same bytes mean the same as long as the table does.
        if self._table() != before or len(self._usual) >= MOST_KNOWN:
            self._usual.clear()
        if self._table() == before and len(block) <= USUAL_BLOCK:
            self._usual[block] = found
        return found

    def _table(self) -> tuple[object, int]:
        """Return what the decoder's dynamic table holds, and how much it may."""
        table = self._decoder.header_table
        return tuple(table.dynamic_entries), table.maxsize


def _without_padding(flags: int, payload: bytes) -> bytes:
    """Return the block of a HEADERS frame, without padding and priority (section 6.2)."""
    begin, end = 0, len(payload)
    if flags & frames.PADDED:
        begin, end = 1, end - (payload[0] if payload else 0)
    if flags & frames.HAS_PRIORITY:
        begin += 5
    if begin > end:
        raise ConnectionFault(frames.PROTOCOL_ERROR, "HEADERS with more padding than payload")
    return payload[begin:end]


@dataclass(frozen=True, slots=True)
class Head:
    """The headers of a call: the method's path, the caller's timeout and metadata.

    `timeout` is in seconds, None without one. `encoding` is how compressed messages are encoded.
    `size` is the size of all headers in bytes, as HTTP/2 counts them.
    """

    path: str
    timeout: float | None
    encoding: bytes
    metadata: tuple[tuple[str, str | bytes], ...]
    size: int = 0


def read_head(fields: Fields) -> Head:
    """Read a call's headers. Raises Malformed if it is not a gRPC call, GrpcStatus to refuse it."""
    sent: dict[bytes, bytes] = {}
    own: list[tuple[bytes, bytes]] = []
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + _FIELD
        if name in _PSEUDO or name in _OWN:
            if name in sent or (own and name in _PSEUDO):
                raise Malformed(f"{name.decode()} is repeated or out of order")
            sent[name] = value
        elif name in _HOP or not _NAME.fullmatch(name) or _BAD_IN_VALUE.search(value):
            raise Malformed("a header that HTTP/2 does not allow")
        else:
            own.append((name, value))
    _check_request(sent)
    if size > MOST_METADATA:
        raise GrpcStatus(
            "RESOURCE_EXHAUSTED",
            f"the call's metadata has {size} bytes; this server takes at most {MOST_METADATA}",
        )
    return Head(
        sent[b":path"].decode("ascii", "replace"),
        _timeout(sent.get(b"grpc-timeout")),
        sent.get(b"grpc-encoding", b"identity"),
        tuple([(name.decode(), _decoded_value(name, value)) for name, value in own]),
        size,
    )


def _check_request(sent: dict[bytes, bytes]) -> None:
    if not (sent.get(b":path") and sent.get(b":scheme") and b":method" in sent):
        raise Malformed("a pseudo-header is missing")
    if sent.get(b"te", b"trailers") != b"trailers":
        raise Malformed("a te header that HTTP/2 does not allow")
    if sent[b":method"] != b"POST":
        raise Malformed("the method is not POST", http_status=405)
    if not _CONTENT_TYPE.fullmatch(sent.get(b"content-type", b"")):
        raise Malformed("the content type is not application/grpc", http_status=415)


def _timeout(value: bytes | None) -> float | None:
    if value is None:
        return None
    match = _TIMEOUT.fullmatch(value)
    if match is None:
        shown = value[:40].decode("ascii", "replace")
        raise GrpcStatus("INVALID_ARGUMENT", f"{shown!r} is not a valid grpc-timeout")
    return int(match[1]) * _SECONDS[match[2]]


def _decoded_value(name: bytes, value: bytes) -> str | bytes:
    if not name.endswith(b"-bin"):
        return value.decode("ascii", "replace")
    try:
        return b"".join(
            base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)
            for part in value.replace(b" ", b"").split(b",")
        )
    except binascii.Error:
        key = name[:40].decode()
        raise GrpcStatus("INVALID_ARGUMENT", f"the metadata {key!r} is not valid base64") from None


def field(name: str, value: bytes) -> bytes:
    """Encode one field, as a literal without indexing (section 6.2.2)."""
    return _name(name) + _length(len(value)) + value


def fields(metadata: Metadata) -> bytes:
    """Encode metadata; values of `-bin` keys are written in base64."""
    return b"".join(field(key, _encoded_value(key, value)) for key, value in metadata)


def initial(metadata: Metadata = ()) -> bytes:
    """Return the block that begins an answer."""
    return _BEGIN + fields(metadata) if metadata else _BEGIN


def trailing(code: str, text: str = "", metadata: Metadata = ()) -> bytes:
    """Return the block that ends an answer."""
    block = _STATUS[code]
    if text:
        block += field("grpc-message", _escaped(text))
    return block + fields(metadata)


def refusal(code: str, text: str, metadata: Metadata) -> bytes:
    """Return the only block of an answer that is no more than a status ("Trailers-Only")."""
    return b"".join(
        (_BEGIN, _STATUS[code], field("grpc-message", _escaped(text)), fields(metadata))
    )


def http_only(status: int) -> bytes:
    """Return the block of a response to a request that is not gRPC."""
    return field(":status", str(status).encode()) + field("accept", b"application/grpc")


def _encoded_value(key: str, value: str | bytes) -> bytes:
    if key.endswith("-bin"):
        raw = value.encode() if isinstance(value, str) else value
        return base64.b64encode(raw).rstrip(b"=")
    raw = value.encode("ascii", "replace") if isinstance(value, str) else value
    return raw.translate(_IN_A_FIELD).strip(b" ")


def _escaped(text: str) -> bytes:
    """Percent-encode the text, as PROTOCOL-HTTP2.md specifies for Status-Message."""
    if text.isascii() and text.isprintable() and "%" not in text:
        return text.encode()
    return "".join([_ESCAPES[byte] for byte in text.encode("utf-8", "replace")]).encode()


@lru_cache(maxsize=256)
def _name(name: str) -> bytes:
    raw = name.encode("ascii", "replace")
    return b"\0" + _length(len(raw)) + raw


def _length(size: int) -> bytes:
    """Encode an integer with a 7-bit prefix (section 5.1)."""
    if size < 127:  # noqa: PLR2004 - the prefix's largest
        return bytes((size,))
    parts, size = [127], size - 127
    while size >= 128:  # noqa: PLR2004 - seven bits a byte
        parts.append(size % 128 | 128)
        size //= 128
    return bytes((*parts, size))


_BEGIN = (
    b"\x88"  # :status 200, from the static table
    + field("content-type", b"application/grpc")
    + field("grpc-accept-encoding", b"identity, deflate, gzip")
)
_STATUS = {name: field("grpc-status", str(number).encode()) for name, number in CODES.items()}
