"""The heads of HTTP requests that are served: what the parser lets through is checked once more."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus

MOST_HEAD_BYTES = 64 * 2**10
"""Bytes of a request's head, and of what stands between two parts of its body."""
_MARKS = len(": \r\n")
_VERSIONS = ("1.0", "1.1")
_FRAMING = (b"content-length", b"transfer-encoding")


class Fault(Exception):
    """What was sent is not served, and nothing that follows it on its connection."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def not_http() -> Fault:
    """The fault of what is no request."""
    return Fault(HTTPStatus.BAD_REQUEST, "the request is not HTTP/1.1, or its target is no path")


def too_long() -> Fault:
    """The fault of a head that does not end, or a line of a chunked body that does not."""
    most = f"this server takes at most {MOST_HEAD_BYTES} bytes"
    return Fault(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head is too long: {most}")


def framing_of(version: str, url: bytes, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A head with nothing but what says how the body ends; empty without a body.

    Raises Fault where two readers of the head may not agree on what it says (RFC 9112, sections
    3.2 and 6.1), and for one that is too long.
    """
    size, hosts, framing = len(url), 0, []
    for name, value in headers:
        size += len(name) + len(value) + _MARKS
        if name == b"host":
            hosts += 1
        elif name in _FRAMING:
            framing.append(name + b": " + value + b"\r\n")
            if name == b"transfer-encoding" and (value.lower(), version) != (b"chunked", "1.1"):
                raise Fault(HTTPStatus.NOT_IMPLEMENTED, "a body may be chunked, and nothing else")
    if size > MOST_HEAD_BYTES:
        raise too_long()
    if version not in _VERSIONS or hosts > 1 or (hosts == 0 and version == "1.1"):
        raise not_http()
    return b"POST * HTTP/1.1\r\n" + b"".join(framing) + b"\r\n" if framing else b""
