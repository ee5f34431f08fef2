"""What the headers of a call say (PROTOCOL-HTTP2.md, Requests)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass

from mlserve.server.port.grpc.status import Malformed, Status

MOST_METADATA = 16 * 2**10
"""Bytes of a call's metadata, as HTTP/2 counts them: 32 for each field beside name and value."""
_FIELD = 32
_CONTENT_TYPE = re.compile(rb"application/grpc(?:[+;].*)?", re.DOTALL)
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_SECONDS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_IN_VALUE = re.compile(rb"[\0\r\n]")
_HOP = (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
"""What HTTP/2 forbids (RFC 9113, section 8.2.2)."""
_PSEUDO = (b":method", b":scheme", b":path", b":authority")
_OWN = (b"te", b"content-type", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding")
"""What belongs to the protocol and not to the caller's metadata."""

Fields = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Head:
    """The headers of a call: the method's full name, how long the caller waits, the metadata.

    `timeout` is in seconds, None where the caller would wait for ever. `encoding` is the coding of
    compressed messages. `size` is the headers' own, in bytes, as HTTP/2 counts them.
    """

    path: str
    timeout: float | None
    encoding: bytes
    metadata: tuple[tuple[str, str | bytes], ...]
    size: int = 0


def read_head(fields: Fields) -> Head:
    """Reads the headers. Raises Malformed for what is no call, Status for one that is refused."""
    sent: dict[bytes, bytes] = {}
    own: list[tuple[bytes, bytes]] = []
    size = 0
    for name, value in fields:
        size += len(name) + len(value) + _FIELD
        if name in _PSEUDO or name in _OWN:
            if name in sent or (own and name in _PSEUDO):
                raise Malformed(f"a second or late {name.decode()}")
            sent[name] = value
        elif name in _HOP or not _NAME.fullmatch(name) or _BAD_IN_VALUE.search(value):
            raise Malformed("a field that HTTP/2 does not allow")
        else:
            own.append((name, value))
    _check_request(sent)
    if size > MOST_METADATA:
        raise Status(
            "RESOURCE_EXHAUSTED",
            f"the call's metadata has {size} bytes; this server takes at most {MOST_METADATA}",
        )
    return Head(
        sent[b":path"].decode("ascii", "replace"),
        _timeout(sent.get(b"grpc-timeout")),
        sent.get(b"grpc-encoding", b"identity"),
        tuple([(name.decode(), _value(name, value)) for name, value in own]),
        size,
    )


def _check_request(sent: dict[bytes, bytes]) -> None:
    if not (sent.get(b":path") and sent.get(b":scheme") and b":method" in sent):
        raise Malformed("a pseudo-header is missing")
    if sent.get(b"te", b"trailers") != b"trailers":
        raise Malformed("a te that HTTP/2 does not allow")
    if sent[b":method"] != b"POST":
        raise Malformed("not a POST", http_status=405)
    if not _CONTENT_TYPE.fullmatch(sent.get(b"content-type", b"")):
        raise Malformed("not a content type of gRPC", http_status=415)


def _timeout(value: bytes | None) -> float | None:
    if value is None:
        return None
    found = _TIMEOUT.fullmatch(value)
    if found is None:
        shown = value[:40].decode("ascii", "replace")
        raise Status("INVALID_ARGUMENT", f"{shown!r} is not a valid grpc-timeout")
    return int(found[1]) * _SECONDS[found[2]]


def _value(name: bytes, value: bytes) -> str | bytes:
    if not name.endswith(b"-bin"):
        return value.decode("ascii", "replace")
    try:
        return b"".join(
            base64.b64decode(part + b"=" * (-len(part) % 4), validate=True)
            for part in value.replace(b" ", b"").split(b",")
        )
    except binascii.Error:
        key = name[:40].decode()
        raise Status("INVALID_ARGUMENT", f"the metadata {key!r} is not base64") from None
