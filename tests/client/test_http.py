"""Answers of a REST server that are packed, although none was asked for."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from threading import Thread

import psutil
import pytest

from mlserve.client import Client
from mlserve.errors import InferenceFailed, MlserveError

pytestmark = pytest.mark.server

LABEL = json.dumps({"outputs": {"labels": [["sorrel"]], "scores": [[1.0]]}}).encode()
Serve = Callable[[bytes, str], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A server that gives each request that body with that Content-Encoding."""
    listeners = []

    def start(body: bytes, coding: str) -> str:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nContent-Encoding: {coding}\r\n"
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def answer() -> None:
            with suppress(OSError):  # the listener is closed at the end of the test
                while True:
                    client, _ = listener.accept()
                    with client, suppress(OSError):
                        _read_request(client)
                        client.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)

        Thread(target=answer, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _read_request(client: socket.socket) -> None:
    """Reads it whole: what is left unread makes the system reset the connection."""
    heard = b""
    while b"\r\n\r\n" not in heard:
        heard += client.recv(65536)
    head, _, body = heard.partition(b"\r\n\r\n")
    left = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]) - len(body)
    while left > 0:
        left -= len(client.recv(left))


def ask(endpoint: str) -> str:
    with Client(endpoint, model="m", api="tfs") as client:
        return client.predict(b"x", timeout=20).label


def test_one_gzip_is_unpacked(serve: Serve) -> None:
    assert ask(serve(gzip.compress(LABEL), "gzip")) == "sorrel"


@pytest.mark.parametrize("coding", ["gzip, gzip", "br", "deflate", "x" * 1000])
def test_other_codings_are_named(serve: Serve, coding: str) -> None:
    with pytest.raises(MlserveError, match="Content-Encoding") as refused:
        ask(serve(gzip.compress(LABEL), coding))
    assert len(refused.value.message) < 500


def test_what_is_not_gzip_is_told_as_such(serve: Serve) -> None:
    with pytest.raises(MlserveError, match="in a known encoding"):
        ask(serve(LABEL, "gzip"))


def test_the_limit_is_on_the_unpacked_bytes(serve: Serve) -> None:
    """512 MB of zeros in 2 MB: no more of it is unpacked than the client would read."""
    block = gzip.compress(bytes(2**29), 1)
    before = psutil.Process().memory_info().rss
    with pytest.raises(InferenceFailed, match="has more than the"):
        ask(serve(block, "gzip"))
    assert psutil.Process().memory_info().rss - before < 200_000_000
