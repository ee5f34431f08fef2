"""Servers that misbehave on purpose, on raw sockets."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain, repeat

import pytest

Peer = Callable[["Line"], None]

HTTP2_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""An empty SETTINGS frame, with which a gRPC client takes the connection for established."""


class Line:
    """One accepted connection of a faulty server."""

    def __init__(self, connection: socket.socket, ended: threading.Event) -> None:
        self._connection = connection
        self._ended = ended

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def drip(self, data: bytes) -> None:
        """Sends a byte every 50 ms, and never ends."""
        for byte in chain(data, repeat(ord("a"))):
            self._connection.sendall(bytes([byte]))
            if self._ended.wait(0.05):
                return

    def flood(self, piece: bytes) -> None:
        """Sends it again and again, until the client takes no more of it for 2 s."""
        self._connection.settimeout(2)
        while not self._ended.is_set():
            self._connection.sendall(piece)
        raise ConnectionError("the test has ended")

    def stall(self) -> None:
        """Says nothing more, and never closes."""
        self._ended.wait()

    def await_bytes(self) -> None:
        """Returns when the client has sent something."""
        self._connection.recv(65536)

    def await_request(self) -> None:
        """Returns when the client has sent a whole HTTP request."""
        head, body = b"", b""
        while b"\r\n\r\n" not in head:
            head += self._received()
        head, _, body = head.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        while length and len(body) < int(length[1]):
            body += self._received()

    def _received(self) -> bytes:
        data = self._connection.recv(65536)
        if not data:
            raise ConnectionError("the client has closed")
        return data

    def drop(self) -> None:
        """Ends the connection with a reset, as the system does for a killed process."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()


@pytest.fixture
def faulty() -> Iterator[Callable[[Peer], str]]:
    """`faulty(peer)` is the `host:port` of a server that treats each connection as `peer` says."""
    ended = threading.Event()
    listeners: list[socket.socket] = []
    threads: list[threading.Thread] = []

    def start(work: Callable[[], None]) -> None:
        threads.append(threading.Thread(target=work, daemon=True))
        threads[-1].start()

    def talk(connection: socket.socket, peer: Peer) -> None:
        with connection, suppress(OSError):  # the client may close at any time
            peer(Line(connection, ended))
            # Closing with bytes of the request unread would be a reset, which can overtake the
            # answer: the client is to see the answer and then the end.
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(5)
            while connection.recv(65536):
                continue

    def listen(listener: socket.socket, peer: Peer) -> None:
        with suppress(OSError):  # closed when the test ends
            while not ended.is_set():
                connection, _ = listener.accept()
                start(lambda: talk(connection, peer))  # noqa: B023

    def serve(peer: Peer) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        start(lambda: listen(listener, peer))
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield serve
    ended.set()
    for listener in listeners:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture
def refusing() -> Iterator[str]:
    """The `host:port` of a bound port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


def _http_drip_headers(line: Line) -> None:
    line.await_bytes()
    line.drip(b"HTTP/1.1 200 OK\r\nX-Slow: ")


def _http_drip_body(line: Line) -> None:
    line.await_bytes()
    line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
    line.drip(b'{"outputs": "')


def _http_stall_after_headers(line: Line) -> None:
    line.await_bytes()
    line.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")
    line.stall()


def _grpc_stall_after_settings(line: Line) -> None:
    line.send(HTTP2_SETTINGS)
    line.stall()


def _grpc_drip_settings(line: Line) -> None:
    line.drip(HTTP2_SETTINGS)


STALLS: dict[str, tuple[str, Peer, str]] = {
    "http says nothing": ("http://", Line.stall, "waiting for the answer of"),
    "http stalls after the headers": ("http://", _http_stall_after_headers, "receiving the answer"),
    "http drips the headers": ("http://", _http_drip_headers, "waiting for the answer of"),
    "http drips the body": ("http://", _http_drip_body, "receiving the answer of"),
    "grpc says nothing": ("", Line.stall, "connecting to"),
    "grpc stalls after its settings": ("", _grpc_stall_after_settings, "waiting for the answer of"),
}


@pytest.fixture(params=STALLS)
def stalling(request: pytest.FixtureRequest, faulty: Callable[[Peer], str]) -> tuple[str, str]:
    """The endpoint of a server that never answers, and what the client is doing meanwhile."""
    scheme, peer, doing = STALLS[request.param]
    return scheme + faulty(peer), doing


@pytest.fixture
def grpc_dripping(faulty: Callable[[Peer], str]) -> str:
    """A server that drips the frame which opens HTTP/2, then bytes without meaning."""
    return faulty(_grpc_drip_settings)
