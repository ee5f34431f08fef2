"""Servers that misbehave on purpose, on bare sockets."""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import chain, repeat

Peer = Callable[["Line"], None]

HTTP2_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
"""An empty SETTINGS frame: a gRPC client then considers the connection established."""
_PREFACE, _FRAME_HEAD, _HEADERS = 24, 9, 1


class Line:
    """One accepted connection of a faulty server."""

    def __init__(self, connection: socket.socket, ended: threading.Event) -> None:
        self._connection = connection
        self._ended = ended

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def drip(self, data: bytes) -> None:
        """Send a byte every 50 ms, forever."""
        for byte in chain(data, repeat(ord("a"))):
            self._connection.sendall(bytes([byte]))
            if self._ended.wait(0.05):
                return

    def flood(self, piece: bytes) -> None:
        """Send it repeatedly, until the client accepts no more of it for 2 s."""
        self._connection.settimeout(2)
        while not self._ended.is_set():
            self._connection.sendall(piece)
        raise ConnectionError("the test has ended")

    def stall(self) -> None:
        """Send nothing more, and never close."""
        self._ended.wait()

    def await_bytes(self) -> None:
        """Wait until the client has sent something."""
        self._connection.recv(65536)

    def await_request(self) -> None:
        """Wait until the client has sent a whole HTTP request."""
        head, body = b"", b""
        while b"\r\n\r\n" not in head:
            head += self._received()
        head, _, body = head.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        while length and len(body) < int(length[1]):
            body += self._received()

    def await_call(self) -> None:
        """Wait until a gRPC client has begun a call on a connection that is new."""
        data, at = b"", _PREFACE
        while True:
            while len(data) < at + _FRAME_HEAD:
                data += self._received()
            if data[at + 3] == _HEADERS:
                return
            at += _FRAME_HEAD + int.from_bytes(data[at : at + 3], "big")

    def relay(self, address: str) -> None:
        """Pass on what comes to that server, and its answers back, until one of the two closes."""
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port))) as server:
            other = {self._connection: server, server: self._connection}
            while not self._ended.is_set():
                for ready in select.select(list(other), [], [], 0.2)[0]:
                    if not (data := ready.recv(65536)):
                        return
                    other[ready].sendall(data)

    def _received(self) -> bytes:
        data = self._connection.recv(65536)
        if not data:
            raise ConnectionError("the client has closed")
        return data

    def drop(self) -> None:
        """Reset the connection, as the system does for a killed process."""
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.close()


def answering(data: bytes) -> Peer:
    """Return a peer that answers the first bytes of a request, and closes the connection."""

    def talk(line: Line) -> None:
        line.await_bytes()
        line.send(data)

    return talk


class FaultyServers:
    """Listeners on system-assigned ports, with a thread for each connection."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._listeners: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def start(self, peer: Peer) -> str:
        """Start a server that handles each connection with `peer`; return its `host:port`."""
        listener = socket.create_server(("127.0.0.1", 0))
        self._listeners.append(listener)
        self._begin(self._listen, listener, peer)
        return f"127.0.0.1:{listener.getsockname()[1]}"

    def end(self) -> None:
        """Close the listeners, and return when no thread is left."""
        self._ended.set()
        for listener in self._listeners:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive()

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        self._threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        self._threads[-1].start()

    def _listen(self, listener: socket.socket, peer: Peer) -> None:
        with suppress(OSError):  # closed when the test ends
            while not self._ended.is_set():
                connection, _ = listener.accept()
                self._begin(self._talk, connection, peer)

    def _talk(self, connection: socket.socket, peer: Peer) -> None:
        with connection, suppress(OSError):  # the client may close at any time
            peer(Line(connection, self._ended))
            # Closing with unread bytes of the request would cause a reset, which can overtake the
            # answer: the client must see the answer and then the end.
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(5)
            while connection.recv(65536):
                continue
