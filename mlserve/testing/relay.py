"""Simulate network faults: a relay in front of a real server that delays its answers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_PAUSE = 0.05
"""Seconds between two bytes of a drip."""
_PIECE = 65536

Pass = Callable[[bytes, socket.socket, threading.Event], None]
"""Forwards a piece of an answer to the client; the event ends it."""


def stall(_piece: bytes, _client: socket.socket, ended: threading.Event) -> None:
    """Forward nothing, and close nothing."""
    ended.wait()


def drip(piece: bytes, client: socket.socket, ended: threading.Event) -> None:
    """Forward one byte every 50 ms."""
    for byte in piece:
        if ended.wait(_PAUSE):
            return
        client.sendall(bytes([byte]))


@contextmanager
def relayed(address: str, answers: Pass) -> Iterator[str]:
    """Yield the `host:port` of a relay to the server at `address`; `answers` passes data back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        relay = _Relay(listener, address, answers)
        try:
            yield "{}:{}".format(*listener.getsockname())
        finally:
            relay.end()


class _Relay:
    """Accepts connections until it is ended; each has its own connection to the server."""

    def __init__(self, listener: socket.socket, address: str, answers: Pass) -> None:
        host, _, port = address.rpartition(":")
        self._server_address = host.strip("[]"), int(port)
        self._answers = answers
        self._ended = threading.Event()
        self._listener = listener
        self._sockets = [listener]
        self._threads: list[threading.Thread] = []
        self._begin(self._accept)

    def end(self) -> None:
        """Close every connection, and return when no thread is left."""
        self._ended.set()
        for one in self._sockets:
            _shut(one)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive(), "the relay does not end"

    def _accept(self) -> None:
        with suppress(OSError):  # the listener is shut down at the end
            while True:
                client, _ = self._listener.accept()
                self._begin(self._join, client)

    def _join(self, client: socket.socket) -> None:
        with client, suppress(OSError), socket.create_connection(self._server_address) as server:
            self._sockets += [client, server]
            if self._ended.is_set():
                return
            there = self._begin(_pour, client, server, server.sendall)
            _pour(server, client, lambda piece: self._answers(piece, client, self._ended))
            there.join()

    def _begin(self, work: Callable[..., None], *arguments: object) -> threading.Thread:
        thread = threading.Thread(target=work, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread


def _pour(source: socket.socket, target: socket.socket, passes: Callable[[bytes], None]) -> None:
    """Forward what `source` sends until it is closed, then close both."""
    with suppress(OSError):
        while piece := source.recv(_PIECE):
            passes(piece)
    _shut(source)
    _shut(target)


def _shut(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
