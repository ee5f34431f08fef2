"""Where a request's head and body end: what two readers might see differently is not served.

The parser (llhttp, through httptools) takes heads of any length, and some that other readers take
apart in other ways. What is refused here is refused before the request is begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

MOST_HEAD_BYTES = 64 * 2**10
"""Bytes of a request's head, and of the framing between two chunks of its body."""
_MARKS = len(": \r\n")
_VERSIONS = ("1.0", "1.1")
_FRAMING = (b"content-length", b"transfer-encoding")


class Fault(Exception):
    """A request that is not served, nor is anything after it on the connection."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def not_http() -> Fault:
    """Return the fault for data that is not an HTTP request."""
    return Fault(HTTPStatus.BAD_REQUEST, "the request is not HTTP/1.1, or its target is not a path")


def too_long() -> Fault:
    """Return the fault for an endless head, or an endless line in a chunked body."""
    most = f"this server takes at most {MOST_HEAD_BYTES} bytes"
    return Fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head is too long: {most}")


def framing_of(version: str, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Return a minimal head with the request's framing headers; empty without a body.

    Raises Fault for a head that two readers may interpret differently (RFC 9112, sections 3.2 and
    6.1), and for one that is too long.
    """
    size, hosts, framing = len(url), 0, []
    for name, value in headers:
        size += len(name) + len(value) + _MARKS
        if name == b"host":
            hosts += 1
        elif name in _FRAMING:
            framing.append(name + b": " + value + b"\r\n")
            if name == b"transfer-encoding" and (value.lower(), version) != (b"chunked", "1.1"):
                raise Fault(
                    HTTPStatus.NOT_IMPLEMENTED, "the only Transfer-Encoding supported is chunked"
                )
    if size > MOST_HEAD_BYTES:
        raise too_long()
    if version not in _VERSIONS or hosts > 1 or (hosts == 0 and version == "1.1"):
        raise not_http()
    return b"POST * HTTP/1.1\r\n" + b"".join(framing) + b"\r\n" if framing else b""
