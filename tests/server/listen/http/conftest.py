"""A server with few connections and little patience, and bare connections to it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from tests.harness.server import serving

TIMEOUT = 0.5


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder = tmp_path_factory.mktemp("connections")
    flags = f"--header-timeout={TIMEOUT}", "--max-connections=8", "--threads=8"
    with serving(folder, *flags) as server:
        yield server


@pytest.fixture
def connect() -> Iterator[Callable[..., socket.socket]]:
    """Opens a connection to `host:port`, and sends it a text."""
    with ExitStack() as stack:

        def open_one(address: str, text: str = "") -> socket.socket:
            host, port = address.rsplit(":", 1)
            client = stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
            client.sendall(text.encode())
            return client

        yield open_one
