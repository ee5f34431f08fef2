"""Read HTTP responses from a bare socket, where a client library would hide details."""

from __future__ import annotations

import re
import socket
from contextlib import suppress


def everything_from(client: socket.socket) -> bytes:
    """Return what the server sends until it closes the connection."""
    parts = []
    with suppress(ConnectionResetError):
        while part := client.recv(65536):
            parts.append(part)
    return b"".join(parts)


def is_good(client: socket.socket) -> bool:
    """Read the next response whole; return whether it is a 200."""
    return response_from(client).startswith(b"HTTP/1.1 200 ")


def response_from(client: socket.socket) -> bytes:
    """Read the next response whole, and nothing of what follows it."""
    heard = b""
    while b"\r\n\r\n" not in heard:
        part = client.recv(1)
        assert part, heard
        heard += part
    left = int(heard.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while left:
        part = client.recv(left)
        assert part, heard
        heard, left = heard + part, left - len(part)
    return heard


def statuses(answer: bytes) -> list[int]:
    """Return the status codes of all responses in these bytes."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]
