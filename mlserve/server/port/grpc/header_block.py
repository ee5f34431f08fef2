"""Header blocks of answers (HPACK, RFC 7541).

Every field is a literal that enters no table, so that a block depends on nothing but itself, and
the usual ones are made once.
"""

from __future__ import annotations

import base64
from functools import lru_cache

from mlserve.server.port.grpc.status import CODES, Metadata

EMPTY_TABLE = b"\x20"
"""What the first block of a connection begins with: the server uses no table (section 6.3)."""
_PRINTABLE = bytes(range(0x20, 0x7F))
_UNCHANGED = frozenset(_PRINTABLE) - {ord("%")}
_ESCAPES = [chr(byte) if byte in _UNCHANGED else f"%{byte:02X}" for byte in range(256)]
_IN_A_FIELD = bytes(byte if byte in _PRINTABLE else ord("?") for byte in range(256))


def field(name: str, value: bytes) -> bytes:
    """One field, as a literal without indexing (section 6.2.2)."""
    return _name(name) + _length(len(value)) + value


def fields(metadata: Metadata) -> bytes:
    """The fields of metadata; values of `-bin` keys are written in base64."""
    return b"".join(field(key, _value(key, value)) for key, value in metadata)


def initial(metadata: Metadata = ()) -> bytes:
    """The block that begins an answer."""
    return _BEGIN + fields(metadata) if metadata else _BEGIN


def trailing(code: str, text: str = "", metadata: Metadata = ()) -> bytes:
    """The block that ends an answer."""
    block = _STATUS[code]
    if text:
        block += field("grpc-message", _escaped(text))
    return block + fields(metadata)


def http_only(status: int) -> bytes:
    """The block of an answer to what is not gRPC."""
    return field(":status", str(status).encode()) + field("accept", b"application/grpc")


def _value(key: str, value: str | bytes) -> bytes:
    if key.endswith("-bin"):
        raw = value.encode() if isinstance(value, str) else value
        return base64.b64encode(raw).rstrip(b"=")
    raw = value.encode("ascii", "replace") if isinstance(value, str) else value
    return raw.translate(_IN_A_FIELD).strip(b" ")


def _escaped(text: str) -> bytes:
    """Percent-encoded, as PROTOCOL-HTTP2.md has it for Status-Message."""
    return "".join([_ESCAPES[byte] for byte in text.encode("utf-8", "replace")]).encode()


@lru_cache(maxsize=256)
def _name(name: str) -> bytes:
    raw = name.encode("ascii", "replace")
    return b"\0" + _length(len(raw)) + raw


def _length(size: int) -> bytes:
    """An integer with a prefix of seven bits (section 5.1)."""
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
