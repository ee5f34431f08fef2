"""A replica that answers both ports as a test says: it serves no model, and notes what it hears."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from enum import StrEnum
from typing import Any, BinaryIO

import grpc

_SILENT_SECONDS = 30.0


class Does(StrEnum):
    """What a replica does with a request."""

    ANSWER = "answer"
    REFUSE = "refuse"
    """By the head alone: the body is not read first."""
    DIE = "die"
    """The connection ends without an answer. Over gRPC the call ends as of a lost connection."""
    WAIT = "wait"
    """Until the caller leaves."""


class Replica:
    """A replica for use in a `with` block; its health checks do not count as requests."""

    def __init__(self, does: Does = Does.ANSWER) -> None:
        self.does = does
        self.delay = 0.0
        """Seconds that an answer takes."""
        self.is_ready = True
        self.asked: list[dict[str, str]] = []
        """The headers of each request, with lower-case names."""
        self.left = 0
        """Callers that have hung up on a request."""
        self._ended = threading.Event()
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.rest_port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        self._server = grpc.server(ThreadPoolExecutor(16), handlers=(_Everything(self),))
        self.grpc_port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()

    def __enter__(self) -> Replica:
        return self

    def __exit__(self, *_: object) -> None:
        self.die()

    def die(self) -> None:
        """End as a killed process does: connections break, and ports refuse new ones."""
        self._ended.set()
        self._server.stop(None)
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as stream, suppress(OSError):
            while (head := _head_of(stream)) is not None:
                path, headers = head
                if path == "/v2/health/ready":
                    connection.sendall(_response(200 if self.is_ready else 503))
                elif not self._answers(connection, stream, headers):
                    return

    def _answers(
        self, connection: socket.socket, stream: BinaryIO, headers: dict[str, str]
    ) -> bool:
        """Answer a request, and return whether the connection goes on."""
        self.asked.append(headers)
        if self.does is Does.DIE:
            return False
        if self.does is Does.REFUSE:
            connection.sendall(_response(429, "retry-after: 3\r\nx-mlserve-price: 0.50\r\n"))
        _read_body(stream, headers)
        if self.does is Does.WAIT:
            connection.settimeout(_SILENT_SECONDS)
            self.left += not stream.read(1)
            return False
        if self.does is Does.ANSWER:
            self._ended.wait(self.delay)
            connection.sendall(_response(200))
        return True

    def call(self, context: Any) -> bytes:
        """Answer a gRPC call."""
        metadata = dict(context.invocation_metadata())
        metadata["remaining"] = str(context.time_remaining())
        self.asked.append(metadata)
        if self.does is Does.REFUSE:
            context.set_trailing_metadata((("mlserve-price", "0.50"), ("retry-after-ms", "3000")))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "refused")
        if self.does is Does.DIE:
            context.abort(grpc.StatusCode.UNAVAILABLE, "lost")
        if self.does is Does.WAIT:
            gone = threading.Event()
            if context.add_callback(gone.set):
                gone.wait(_SILENT_SECONDS)
            self.left += 1
        self._ended.wait(self.delay)
        return b""


class _Everything(grpc.GenericRpcHandler):
    """Takes every method."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica

    def service(self, handler_call_details: Any) -> Any:
        return grpc.unary_unary_rpc_method_handler(
            lambda _, context: self._replica.call(context)  # messages are bytes
        )


def _head_of(stream: BinaryIO) -> tuple[str, dict[str, str]] | None:
    """Return a request's path and headers; None at the end of the connection."""
    lines = list(_lines(stream))
    if not lines:
        return None
    found = re.match(r"\S+ (\S+)", lines[0])
    assert found, lines
    pairs = (line.partition(":") for line in lines[1:])
    return found[1], {name.lower(): value.strip() for name, _, value in pairs}


def _read_body(stream: BinaryIO, headers: dict[str, str]) -> None:
    if headers.get("transfer-encoding") == "chunked":
        while size := int(stream.readline() or b"0", 16):
            stream.read(size + 2)
        stream.readline()
    else:
        stream.read(int(headers.get("content-length", "0")))


def _lines(stream: BinaryIO) -> Iterator[str]:
    while (line := stream.readline()) not in (b"\r\n", b""):
        yield line.decode().strip()


def _response(status: int, headers: str = "") -> bytes:
    return f"HTTP/1.1 {status} X\r\n{headers}content-length: 2\r\n\r\n{{}}".encode()
