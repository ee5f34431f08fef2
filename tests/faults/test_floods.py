"""Floods of frames at the gRPC port cost the sender his connection, and nobody else a thing."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.server, pytest.mark.alone]

PHOTO = b"\xff\xd8\xff a photo"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MOST_MIB = 150
"""What a flood may add to the server's memory."""
MOST_LOG = 20_000
_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _CONTINUATION = 0, 1, 3, 4, 6, 9


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def _literal(name: bytes, value: bytes) -> bytes:
    """A header field as HPACK (RFC 7541, 6.2.2) has it, in no table and without Huffman's code."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


REQUEST = b"\x83\x86" + b"".join(  # :method POST, :scheme http, of the static table
    _literal(name, value)
    for name, value in (
        (b":path", b"/tensorflow.serving.PredictionService/Predict"),
        (b":authority", b"test"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    )
)


def _streams(after: bytes) -> Iterator[bytes]:
    """A request on a stream of its own each, and what follows it."""
    for number in range(1, 400_001, 2):
        yield frame(_HEADERS, 4, number, REQUEST) + frame(_RESET, 0, number, after)


def _again(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece * 100


FLOODS = {
    "requests that are reset at once": lambda: _streams(b"\0\0\0\x08"),
    "PING frames": lambda: _again(frame(_PING, 0, 0, b"8 bytes.")),
    "SETTINGS frames": lambda: _again(frame(_SETTINGS, 0, 0)),
    "headers without an end": lambda: (
        piece
        for start in [frame(_HEADERS, 0, 1, REQUEST)]
        for piece in (start, *([frame(_CONTINUATION, 0, 1, _literal(b"x", b"y" * 99))] * 20_000))
    ),
    "empty DATA frames": lambda: (
        piece
        for start in [frame(_HEADERS, 4, 1, REQUEST)]
        for piece in (start, *([frame(_DATA, 0, 1) * 100] * 5000))
    ),
}


@contextmanager
def flooded(address: str, what: str) -> Iterator[None]:
    """Two connections that send it for as long as the block lasts, or the server lets them."""
    has_ended = threading.Event()

    def flood() -> None:
        host, _, port = address.rpartition(":")
        with suppress(OSError), socket.create_connection((host, int(port)), timeout=2) as raw:
            raw.sendall(PREFACE + frame(_SETTINGS, 0, 0))
            for piece in FLOODS[what]():
                if has_ended.is_set():
                    return
                raw.sendall(piece)

    threads = [threading.Thread(target=flood, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        has_ended.set()
        for thread in threads:
            thread.join(10)


@pytest.mark.parametrize("what", FLOODS)
def test_others_are_served_beside_a_flood(servers: Any, what: str) -> None:
    server = servers()
    process = psutil.Process(server.process.pid)
    with server.client("grpc") as client:
        client.predict(PHOTO, timeout=10)
    before = process.memory_info().rss
    with flooded(server.grpc, what):
        give_up = time.monotonic() + 2
        while time.monotonic() < give_up:
            for protocol in ("grpc", "rest"):
                with server.client(protocol) as client:
                    assert client.predict(PHOTO, timeout=20).label == "sorrel"
    assert (process.memory_info().rss - before) / 2**20 < MOST_MIB
    assert len(server.log()) < MOST_LOG
    with server.client("grpc") as client:
        assert client.predict(PHOTO, timeout=20).label == "sorrel"
